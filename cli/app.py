"""The commands of vocabkit, and how errors end.

Each command parses, calls one library function and shows its value: data on stdout, everything else on stderr.
"""

from __future__ import annotations

import functools
import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException
from typer.models import CommandInfo

from . import adapters, lookups, pictures, training, vocabularies
from .options import AsJson, Everything
from .show import Run, fitted, note, running, show, show_json, show_progress, showing_warnings

ADAPTER_EXTRA = {"PIL", "accelerate", "gguf", "safetensors", "torch", "transformers"}
"""Packages that only the commands about adapters need, and a light installation lacks."""


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"vocabkit {version('vocabkit')}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


def doctor(everything: Everything = False, json: AsJson = False) -> None:
    """Show what works on this machine, and what to install.

    With --all, all versions and, for typical sizes, how visual tokens are computed here and why.
    """
    with show_progress():
        from vocabkit.llm.environment import environment

        found = environment()
    if json:
        show_json(found)
        return
    from vocabkit.report.environment import environment_report

    show(environment_report(found, everything=everything))


class _Panels(TyperGroup):
    """Lists commands in groups. Typer does this only with Rich, which reads text in brackets as markup."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per panel, in the order of registration."""
        width = max(map(len, self.commands))
        limit = formatter.width - 6 - width
        for panel in dict.fromkeys(panel for panel, *_ in _COMMANDS):
            texts = {name: inspect.getdoc(function) for each, name, function, _ in _COMMANDS if each == panel}
            lines = {name: TyperCommand(name, help=text).get_short_help_str(limit) for name, text in texts.items()}
            with formatter.section(panel):
                formatter.write_dl([(f"{name:{width}}", line) for name, line in lines.items()])


class _Commands(dict[str, Any]):
    """Commands by name, each built when it is asked for: all of them take as long as importing Typer."""

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            self[name] = _build(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        with suppress(KeyError):
            return self[name]
        return default

    def values(self) -> Any:
        return [self[name] for name in self]

    def items(self) -> Any:
        return [(name, self[name]) for name in self]


# Help breaks its lines between words only: an option that is broken at its hyphen can be neither found nor copied.
textwrap.TextWrapper.wordsep_re = textwrap.TextWrapper.wordsep_simple_re
_HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    cls=_Panels,
    no_args_is_help=True,
    context_settings=_HELP,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Reuse a vision-language adapter with another LLM, through the vocabulary that both share.",
)
app.callback()(_options)
_COMMANDS: tuple[tuple[str, str, Callable[..., None], str], ...] = (
    ("Vocabularies", "build-shared", vocabularies.build_shared, "qwen2 llama3 --out shared.arrow"),
    ("Vocabularies", "overlap", vocabularies.overlap, "qwen2 llama3 gemma3 --html overlap.html"),
    ("Vocabularies", "explain", vocabularies.explain, "' windmill' qwen2 llama3"),
    ("Vocabularies", "show", lookups.show, "shared.arrow --search mill"),
    ("Vocabularies", "diff", lookups.diff, "Qwen/Qwen2-7B Qwen/Qwen2-7B-Instruct"),
    ("Vocabularies", "map", lookups.map_ids, "qwen2 llama3 --out map.json"),
    ("Vocabularies", "audit", vocabularies.audit, "spelling qwen2 llama3"),
    ("Vocabularies", "check", vocabularies.check, "moved adapter.pt --to llama3-8b"),
    ("Vocabularies", "import", vocabularies.import_, "projector.bin --shared map.arrow --llm qwen2 --out adapter"),
    ("Vocabularies", "catalog", vocabularies.catalog, "llama3.2"),
    ("Adapters", "transfer", adapters.transfer, "adapter.pt --to llama3-8b --out moved"),
    ("Adapters", "export", adapters.export, "moved --as llava --llm LLM --vision CLIP --out llava"),
    ("Pictures", "infer", pictures.infer, "moved photos/ --captions --llm LLM --out captions"),
    ("Pictures", "interpret", pictures.interpret, "adapter.pt photo.jpg --llm LLM --html words.html"),
    ("Pictures", "app", pictures.app, "adapter.pt --llm gemma3=gemma.gguf --llm qwen2.5=LLM"),
    ("Training", "scenes", training.scenes, "scenes --train 6000 --held-out 300"),
    ("Training", "features", training.features, "data.json --vision CLIP --out features"),
    ("Training", "train", training.train, "recipe.toml --out trained --set steps=100"),
    ("Training", "adopt", training.adopt, "LLAVA --pictures photos/ --for llama3 --for qwen2.5 --out adopted"),
    ("Training", "validate", training.validate, "data.json --llm LLM --features features --adapter moved=moved"),
    ("Training", "compare", training.compare, "mlp=mlp.json moved=moved.json"),
    ("Installation", "doctor", doctor, "--json"),
)
"""Panel of the help, name, function, and the words of an example."""


def main() -> None:
    """Run the command line.

    Exit code 1 if a check failed or the reader of a pipe closed it; 2, with one line on stderr, on bad usage or bad
    input; 130 on Ctrl-C.
    """
    from vocabkit.errors import VocabkitError, one_line

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # otherwise huggingface_hub logs every attempt to reach the hub
    vars(running).update(vars(Run()))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals whose encoding can't show some token
    try:
        with showing_warnings(lambda message: _with_options(message, sys.argv[1:2])):
            code = command_line()(sys.argv[1:], "vocabkit", standalone_mode=False)
        if code == 130:
            note(f"interrupted; {running.kept()}")
        sys.exit(code)
    except TyperException as error:
        if len(sys.argv) < 2:
            print(error.format_message(), file=sys.stderr)  # the help
            sys.exit(2)
        problem = one_line(_usage(error))
    except VocabkitError as error:
        problem = _with_options(str(error), sys.argv[1:2])
    except MemoryError:
        problem = "not enough memory"
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ADAPTER_EXTRA:
            raise
        problem = f"this command needs {error.name}: pip install 'vocabkit[adapter]'"
    except OSError as error:  # stdout is on a full disk: flushing it at exit would fail again
        problem = one_line(f"{error.filename or 'output'}: {error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _show_error(problem)
    sys.exit(2)


def _show_error(problem: str) -> None:
    """Print an error on stderr; with --json, also as JSON on stdout, which then has nothing else."""
    if "--json" in sys.argv:
        show_json({"error": problem})
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    label, line = "error:", fitted(f"error: {problem}", sys.stderr)
    print(f"\x1b[31m{label}\x1b[0m{line.removeprefix(label)}" if red else line, file=sys.stderr)


def _usage(error: TyperException) -> str:
    """Put Typer's message about bad usage on one line, and point to the help."""
    context = getattr(error, "ctx", None)
    command = "vocabkit" if context is None else context.command_path
    return f"{' '.join(error.format_message().split()).rstrip('.')}; see `{command} --help`"


@functools.cache
def command_line() -> Any:
    """The command line as a click group."""
    group: Any = typer.main.get_command(app)
    group.commands = _Commands.fromkeys(name for _, name, *_ in _COMMANDS)
    return group


def _build(name: str) -> Any:
    """Build a command as click has it."""
    function, example = next((function, example) for _, each, function, example in _COMMANDS if each == name)
    # with its own -h: a command keeps the help option that it is first asked for, with or without the group's context
    info = CommandInfo(name, callback=function, context_settings=_HELP, epilog=f"Example: vocabkit {name} {example}")
    command: Any = typer.main.get_command_from_info(info, pretty_exceptions_short=True, rich_markup_mode=None)
    for parameter in command.params:
        kind = parameter.type.name.partition(" ")[0]
        if parameter.metavar is None and parameter.param_type_name == "argument":
            parameter.metavar = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
        elif parameter.metavar is None and kind in _METAVARS:
            parameter.metavar = _METAVARS[kind]
    command.params.append(
        TyperOption(
            param_decls=["-q", "--quiet"], is_flag=True, expose_value=False, callback=_quiet,
            help="No notes and no progress on stderr; results and errors only.",
        )
    )  # fmt: skip
    return command


def _quiet(context: Any, parameter: Any, given: bool) -> None:
    running.quiet = given


_METAVARS = {"path": "PATH", "int": "N", "float": "X", "str": "TEXT"}
"""What stands for the value of an option in the help, by type."""


def _with_options(message: str, words: Sequence[str]) -> str:
    """Replace each `parameter` that the library names in backticks by the running command's option or argument."""
    command = next((command_line().commands[word] for word in words if word in command_line().commands), None)
    if command is None:
        return message
    names = {}
    for parameter in command.params:
        options = [option for option in parameter.opts if option.startswith("--")]
        names[parameter.name] = options[0] if options else parameter.name.upper()
    return re.sub(r"`(\w+)`", lambda match: names.get(match[1], match[0]), message)
