"""Special tokens: roles of ids, reserved spellings, and the files beside a tokenizer that declare them.

Like transformers, this reads special tokens from several files: tokenizer_config.json (`eos_token`,
`additional_special_tokens`, `added_tokens_decoder`, ...), special_tokens_map.json, added_tokens.json,
generation_config.json and config.json, whose part about the language model may be nested.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from vocabkit.errors import VocabkitError, did_you_mean, quote
from vocabkit.files.records import optional_json
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

_RESERVED = re.compile(
    r"<\|(\w+_)?reserved_(special_)?(token_)?\d+\|>|<SPECIAL_\d+>|<\|?unused_?(token_?)?\d+\|?>|\[(unused|PAD|UNUSED_TOKEN_)\d+\]"
    r"|<\|extra_\d+\|>|<(extra_id_reserved|reserved)[_-]?\d+>|\[control_\d+\]|<\|dummy_\d+\|>|<\|placeholder\d+\|>|<｜place▁holder▁no▁\d+｜>"
)


@dataclass(frozen=True)
class Family:
    """The special tokens of one tokenizer family, for file formats that don't hold them."""

    name: str
    ranks: int | None
    """Number of base tokens that the tiktoken file must have."""
    tokens: tuple[str, ...]
    """In id order, after the ranks."""
    text: frozenset[str]
    """Added tokens that are ordinary text (`special: false`)."""
    roles: Mapping[str, str]
    """Roles that don't follow from the spelling: role -> spelling."""
    pretokenizer: str | None


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "special_tokens.toml").read_text("utf-8"))


def families() -> list[str]:
    """Names that `family` knows."""
    return sorted(_tables()["families"])


@cache
def family(name: str) -> Family:
    """Return the family called `name`. Raises KeyError if there is none."""
    entry = _tables()["families"][name]
    tokens: list[str] = []
    for item in entry["tokens"]:
        if isinstance(item, str):
            tokens.append(item)
        else:
            tokens.extend(item["run"].format(i) for i in range(item["first"], item["last"] + 1))
    text = frozenset(entry.get("text", ()))
    return Family(name, entry.get("ranks"), tuple(tokens), text, entry.get("roles", {}), entry.get("pretokenizer"))


def is_reserved(spelling: str) -> bool:
    """Whether `spelling` is one that models reserve, such as `<|reserved_special_token_5|>`."""
    return _RESERVED.fullmatch(spelling) is not None


_MARKED = re.compile(r"<.*>|\[.*\]", re.DOTALL)
"""Spellings of special tokens are in brackets."""


def reserved_ids(spellings: Sequence[str | None]) -> list[int]:
    """Return ids with a reserved spelling, whatever else the file says about them."""
    return [i for i, each in enumerate(spellings) if each and each[0] in "<[" and len(each) > 4 and is_reserved(each)]


def special_kind(spelling: str) -> Kind:
    """Return the kind of an id that its file marks as special."""
    return Kind.UNUSED if is_reserved(spelling) else Kind.SPECIAL


def roles(spellings: Mapping[int, str], kinds: np.ndarray, declared: Mapping[str, int] | None = None) -> dict[str, int]:
    """Map roles to ids for the special tokens of one tokenizer, sorted by role.

    Only ids of kind `special` get a role: Qwen has ordinary text pieces spelled `<s>`. The file's
    declarations override spellings; among several ids with a fitting spelling, the order of the table decides.

    Args:
        spellings: id -> spelling of the special tokens.
        kinds: (V,) uint8.
        declared: role -> id, as the tokenizer file declares.
    """
    ids = {spelling: i for i, spelling in spellings.items() if kinds[i] == Kind.SPECIAL}
    found: dict[str, int] = {}
    for role, candidates in _tables()["spellings"].items():
        match = next((ids[c] for c in candidates if c in ids), None)
        if match is not None:
            found[role] = match
    given = {r: i for r, i in (declared or {}).items() if 0 <= i < len(kinds) and kinds[i] == Kind.SPECIAL}
    for role in _PLACEHOLDERS:  # `<img>` starts a picture in some models, and stands for it in others
        if role in given and found.get(f"{role}_start") == given[role]:
            del found[f"{role}_start"]
    return dict(sorted((found | given).items()))


_PLACEHOLDERS = ("audio", "image", "video")
"""Roles of tokens that stand for an input, which are not those around it."""


def with_roles(vocabulary: Vocabulary, given: Mapping[str, str]) -> Vocabulary:
    """`vocabulary` with further roles, role -> spelling of a special token: for what no file declares.

    Raises VocabkitError: a spelling that is no special token of it, or a name that is not letters, digits and `_`.
    """
    found = dict(vocabulary.roles)
    tokens = vocabulary.tokens.to_pylist()
    for role, spelling in given.items():
        if re.fullmatch(r"\w{1,64}", role) is None:
            raise VocabkitError(f"role {quote(role)}: expected letters, digits and _")
        ids = [i for i, token in enumerate(tokens) if token == spelling.encode("utf-8", "surrogateescape")]
        special = [i for i in ids if vocabulary.kinds[i] == Kind.SPECIAL]
        if not special:
            what = f"is {Kind(int(vocabulary.kinds[ids[0]])).name.lower()}, not special," if ids else "is no token"
            known = (tokens[i].decode("utf-8", "replace") for i in np.flatnonzero(vocabulary.kinds == Kind.SPECIAL))
            advice = did_you_mean(spelling, known, "`vocabkit overlap` lists those that have no role")
            raise VocabkitError(f"{quote(spelling)} {what} in {vocabulary.name}; {advice}")
        found[role] = special[0]
    every = {**(vocabulary.given_roles or {}), **given}
    return dataclasses.replace(vocabulary, roles=MappingProxyType(dict(sorted(found.items()))), given_roles=every)


def append_special(
    tokens: list[bytes | None], kinds: list[int], added: Sequence[str], text: frozenset[str] = frozenset()
) -> None:
    """Append `added` to `tokens` and `kinds`, as text where `text` names them and as special otherwise."""
    for spelling in added:
        tokens.append(spelling.encode())
        kinds.append(Kind.TEXT if spelling in text else special_kind(spelling))


ROLES = {
    **{f"{role}_token": role for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
    "boi_token": "image_start",
    "eoi_token": "image_end",
    "image_token": "image",
    "audio_token": "audio",
    "video_token": "video",
    "eot_token": "turn_end",
    "eom_token": "message_end",
}
"""Field of a config -> role, in the order in which transformers adds those that the tokenizer lacks."""
_ID_ROLES = {f"{name}_id": role for name, role in ROLES.items()}
_LANGUAGE_MODELS = (
    "text_config", "llm_config", "language_config", "language_model", "llm", "thinker_config", "decoder", "lm_config",
    "llm_cfg", "text_model", "gpt_config",
)  # fmt: skip
"""Where the config of a multimodal model keeps that of its language model; `thinker_config` has one more inside."""


@dataclass(frozen=True)
class Added:
    """A token that a config adds to the tokenizer."""

    id: int
    content: str
    special: bool | None
    """None if the file does not say."""
    normalized: bool = True
    """Whether it is found in normalised text, as transformers has it by default."""


@dataclass(frozen=True)
class Declarations:
    """Declarations of the files in a model folder."""

    roles: Mapping[str, str] = field(default_factory=dict)
    """Role -> spelling."""
    role_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Role -> ids. A generation config may list several ids that end generation."""
    special: frozenset[str] = frozenset()
    """Spellings of special tokens, including those with roles."""
    named: tuple[str, ...] = ()
    """Spellings with roles, then further special ones: the order in which transformers adds those that are lacking."""
    added: tuple[Added, ...] = ()
    """By id."""
    rows: int | None = None
    """Of the embedding table."""
    width: int | None = None

    def is_special(self, token_id: int, spelling: str) -> bool:
        """Whether a file names this token as special.

        Never a single character: some models pad with `!`, which remains a piece of ordinary text.
        """
        listed = any(token_id in ids for ids in self.role_ids.values())
        # configs copied from another model list ids that are ordinary pieces here
        return len(spelling) > 1 and (spelling in self.special or (listed and _MARKED.fullmatch(spelling) is not None))


def read_declarations(folder: Path) -> Declarations:
    """Read the files in `folder`, all optional. Raises VocabkitError: one isn't a JSON object."""
    return declarations(
        optional_json(folder / "tokenizer_config.json"),
        special_map=optional_json(folder / "special_tokens_map.json"),
        appended=optional_json(folder / "added_tokens.json"),
        generation=optional_json(folder / "generation_config.json"),
        model=optional_json(folder / "config.json"),
    )


def declarations(
    config: Mapping[str, Any],
    *,
    special_map: Mapping[str, Any] = MappingProxyType({}),
    appended: Mapping[str, Any] = MappingProxyType({}),
    generation: Mapping[str, Any] = MappingProxyType({}),
    model: Mapping[str, Any] = MappingProxyType({}),
) -> Declarations:
    """Collect declarations of parsed files: tokenizer_config.json, special_tokens_map.json, added_tokens.json,
    generation_config.json and config.json.
    """
    # transformers reads the two older files only where tokenizer_config.json has no added_tokens_decoder
    is_whole = isinstance(config.get("added_tokens_decoder"), dict)
    sources = (config,) if is_whole else (special_map, config)
    added = _from_decoder(config["added_tokens_decoder"]) if is_whole else _from_appended(appended)
    roles: dict[str, str] = {}
    extra: list[str] = []
    for source in sources:
        fields = dict(source)
        for name in ("extra_special_tokens", "model_specific_special_tokens"):
            fields |= source[name] if isinstance(source.get(name), dict) else {}
            extra += _contents(source.get(name))
        extra += _contents(source.get("additional_special_tokens"))
        for name, role in ROLES.items():
            if (content := _content(fields.get(name))) is not None:
                roles.setdefault(role, content)
    named = dict.fromkeys([*(roles[role] for role in ROLES.values() if role in roles), *extra])
    special = named.keys() | {token.content for token in added if token.special}
    models = _language_models(model)
    # `"bos_token": null` says that there is none, whatever a model's config carries along; but generation ends at eos
    denied = {role for name, role in ROLES.items() if name in config and config[name] is None} - roles.keys() - {"eos"}
    role_ids: dict[str, tuple[int, ...]] = {}
    for ids_source in (generation, *models):
        for name, role in _ID_ROLES.items():
            if (ids := _ids(ids_source.get(name))) and role not in denied:
                role_ids.setdefault(role, ids)
    rows = next((size for each in models if (size := _positive(each.get("vocab_size")))), None)
    width = next((size for each in models if (size := _positive(each.get("hidden_size")))), None)
    return Declarations(roles, role_ids, frozenset(special), tuple(named), added, rows, width)


def _language_models(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the config of the language model, innermost first, and those around it, which may hold its sizes."""
    for name in _LANGUAGE_MODELS:
        if isinstance(inner := config.get(name), dict):
            return [*_language_models(inner), config]
    return [config]


def _content(token: Any) -> str | None:
    """A token as configs write it: a text, or {"content": text}."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) and content else None


def _contents(tokens: Any) -> Iterator[str]:
    for token in tokens.values() if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else ():
        if (content := _content(token)) is not None:
            yield content


def _from_decoder(decoder: Mapping[str, Any]) -> tuple[Added, ...]:
    """Tokens of `added_tokens_decoder`: id -> token."""
    found: dict[int, Added] = {}
    for key, token in decoder.items():
        if key.isdecimal() and (spelling := _content(token)) is not None:
            flags = token if isinstance(token, dict) else {}
            special = bool(flags.get("special"))
            found[int(key)] = Added(int(key), spelling, special, bool(flags.get("normalized", not special)))
    return tuple(found[token_id] for token_id in sorted(found))


def _from_appended(appended: Mapping[str, Any]) -> tuple[Added, ...]:
    """Tokens of an added_tokens.json: spelling -> id."""
    found = {token_id: Added(token_id, content, None) for content, token_id in appended.items() if _ids(token_id)}
    return tuple(found[token_id] for token_id in sorted(found))


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(each for each in values if type(each) is int and each >= 0)


def _positive(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


def library_ids(contents: Iterable[str], pieces: Mapping[str, int], size: int) -> dict[str, int]:
    """Ids that `tokenizers` gives added tokens (AddedVocabulary::add_tokens): that of the piece with the same content,
    else the next one, counted from the model's number of pieces, `size`, whatever ids these have.
    """
    ids: dict[str, int] = {}
    following = size
    for content in contents:
        if content and content not in ids:
            ids[content] = pieces.get(content, following)
            following += content not in pieces
    return ids


def added_ids(
    listed: Iterable[tuple[int, str]], declared: Declarations, pieces: Mapping[str, int], size: int
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Return ids of the added tokens of a tokenizer, and of those that only `declared` names, as `library_ids` gives
    them; and notes on tokens whose id in the file is another, and on those that no file has.

    Args:
        listed: id in the file, and content.
    """
    told: list[tuple[int | None, str]] = list(listed)
    known = {content for _, content in told}
    told += [(None, spelling) for spelling in declared.named if spelling not in known and spelling not in pieces]
    ids = library_ids([content for _, content in told], pieces, size)
    notes = []
    if moved := [(content, at) for at, content in told if at is not None and ids[content] != at]:
        content, at = moved[0]
        notes.append(
            f"disagrees with itself about the ids of {len(moved)} added tokens, such as {quote(content)}: {at} in the "
            f"file, {ids[content]} as `tokenizers` loads it, which counts"
        )
    if new := [content for at, content in told if at is None]:
        notes.append(
            f"lacks {len(new)} special tokens that its config names, such as {quote(new[0])}: transformers adds them, "
            f"here with id {ids[new[0]]}"
        )
    return ids, tuple(notes)


def declared_ids(named: Mapping[int, str], declared: Declarations) -> dict[str, int]:
    """Map roles to ids as declared: by spelling, else the first id that a config lists.

    Args:
        named: id -> spelling of the special tokens.
    """
    ids = {spelling: i for i, spelling in named.items()}
    found = {role: ids[spelling] for role, spelling in declared.roles.items() if spelling in ids}
    for role, listed in declared.role_ids.items():
        if listed[0] in named:
            found.setdefault(role, listed[0])
    return found
