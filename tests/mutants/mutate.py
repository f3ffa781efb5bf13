"""Small semantic changes of one source file, one at a time, each of which a test should notice."""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "sorted": "list",
    "float32": "float64",
    "float64": "float32",
    "float16": "float32",
    "bfloat16": "float32",
    "double": "float",
}
_CONVERSIONS = {"abs", "clamp_min", "clone", "contiguous", "copy", "detach", "double", "float", "lower", "strip", "to"}


@dataclass(frozen=True)
class Mutant:
    """One changed copy of a source file."""

    name: str
    """What changed, in which function: it outlives changes elsewhere in the file."""
    line: int
    function: tuple[int, int] | None
    """First and last line of the function; None outside of functions, in lines that run when a module is imported."""
    number: int


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module, in order."""
    made, seen = [], dict[str, int]()
    for node, scope, _ in _places(ast.parse(source)):
        for changed in _changes(node):
            before = ast.unparse(node).splitlines()[0]
            after = (ast.unparse(changed).splitlines() or ["nothing"])[0]
            where = ".".join(getattr(each, "name", "") for each in scope)
            name = f"{where}: {before}  =>  {after}"
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                name += f"  #{seen[name]}"
            inner = scope[-1] if scope and isinstance(scope[-1], ast.FunctionDef) else None
            lines = (inner.lineno, inner.end_lineno or inner.lineno) if inner else None
            made.append(Mutant(name, node.lineno, lines, len(made)))
    return made


def mutated(source: str, number: int) -> str:
    """Return the source of the mutant of this number."""
    tree = ast.parse(source)
    changes = ((put, changed) for node, _, put in _places(tree) for changed in _changes(node))
    put, changed = next(itertools.islice(changes, number, None))
    put(changed)
    return ast.unparse(ast.fix_missing_locations(tree))


def draw(name: str, seed: int) -> bytes:
    """Where a mutant comes in the random order of a seed, whatever other mutants there are."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


Scope = tuple[ast.FunctionDef | ast.ClassDef, ...]
Place = tuple[ast.expr | ast.stmt, Scope, Callable[[ast.AST], None]]


def _places(node: ast.AST, scope: Scope = ()) -> Iterator[Place]:
    """Each expression and statement below `node` that decides something, and how to put another one in its place.

    Annotations, decorators, docstrings and the wording of messages decide nothing.
    """
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.Call) and _is_typing(node):
        return
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = (*scope, node)
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or (isinstance(child, ast.arguments) and not scope):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child, scope, _putter(node, field, at)
            yield from _places(child, scope)


def _putter(node: ast.AST, field: str, at: int | None) -> Callable[[ast.AST], None]:
    def put(new: ast.AST) -> None:
        if at is None:
            setattr(node, field, new)
        else:
            getattr(node, field)[at] = new

    return put


def _changes(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    """Yield changed copies of one node."""
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)):
            yield ast.Constant(value + 1)
            if value > 1:
                yield ast.Constant(value * 10)
        case ast.Constant(value=float(value)):
            yield ast.Constant(value * (1e6 if 0 < value < 1e-2 else 10) if value else 1.0)
        case ast.Compare(ops=[op]):
            for other in _COMPARISONS[type(op)]:
                yield _with(node, ops=[other()])
        case ast.BinOp(op=op) if type(op) in _OPERATORS and not _is_text(node.left) and not _is_text(node.right):
            yield _with(node, op=_OPERATORS[type(op)]())
        case ast.UnaryOp(op=ast.Not()) | ast.UnaryOp(op=ast.Invert()) | ast.UnaryOp(op=ast.USub()):
            yield node.operand
        case ast.BoolOp(op=op, values=values):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for at in range(len(values)):
                rest = values[:at] + values[at + 1 :]
                yield _with(node, values=rest) if len(rest) > 1 else rest[0]
        case ast.IfExp(body=body, orelse=other):
            yield body
            yield other
        case ast.If(body=body) | ast.While(body=body):
            yield _with(node, test=ast.Constant(False))
            if isinstance(node, ast.If) and not isinstance(body[0], ast.Raise):
                yield _with(node, test=ast.Constant(True))
        case ast.Raise() if node.exc is not None:
            yield ast.Pass()
        case ast.Name(id=name, ctx=ast.Load()) if name in _NAMES:
            yield _with(node, id=_NAMES[name])
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in _NAMES:
            yield _with(node, attr=_NAMES[name])
        case ast.Call(func=func, args=args, keywords=keywords):
            if isinstance(func, ast.Attribute) and func.attr in _CONVERSIONS:
                yield func.value
            if len(args) > 1 and all(isinstance(each, ast.Name) for each in args[:2]) and not _is_typing(node):
                yield _with(node, args=[args[1], args[0], *args[2:]])
            for at, keyword in enumerate(keywords):
                if keyword.arg not in (None, "strict", "stacklevel", "default_factory"):
                    yield _with(node, keywords=keywords[:at] + keywords[at + 1 :])
        case ast.Slice(lower=lower, upper=upper):
            if lower is not None and not isinstance(lower, ast.Constant):
                yield _with(node, lower=ast.BinOp(lower, ast.Add(), ast.Constant(1)))
            if upper is not None and not isinstance(upper, ast.Constant):
                yield _with(node, upper=ast.BinOp(upper, ast.Sub(), ast.Constant(1)))
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.AugAssign(op=op) if type(op) in _OPERATORS:
            yield _with(node, op=_OPERATORS[type(op)]())
            yield ast.Pass()
        case ast.Assign(targets=[ast.Subscript() | ast.Attribute()]):
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.ListComp(generators=parts) | ast.SetComp(generators=parts) | ast.GeneratorExp(generators=parts):
            for at, part in enumerate(parts):
                if part.ifs:
                    yield _with(node, generators=[*parts[:at], _with(part, ifs=[]), *parts[at + 1 :]])
        case ast.DictComp(generators=[part]) if part.ifs:
            yield _with(node, generators=[_with(part, ifs=[])])


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _is_typing(node: ast.Call) -> bool:
    return ast.unparse(node.func) in ("warnings.warn", "isinstance", "cast", "suppress")


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr | ast.List | ast.Tuple) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )
