"""Mistral's tekken.json (mistral_common/tokens/tokenizers/tekken.py).

The first `default_num_special_tokens` ids are special; the text token of rank r has id r + that number. Only as many
ranks count as fit into `default_vocab_size`, although the file holds more.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vocabkit.errors import VocabkitError, quote
from vocabkit.readers.tokenizer_json import load_json
from vocabkit.segmentation import Rules, byte_level_rules
from vocabkit.special_tokens import append_special, family, roles
from vocabkit.vocabulary import MAX_TOKENS, Kind, Vocabulary, make_vocabulary


def read(path: Path, name: str | None = None) -> Vocabulary:
    """Read a tekken.json. Raises VocabkitError if its config, special tokens or ranks are not as expected."""
    return from_content(path, load_json(path), name)


def from_content(path: Path, content: Mapping[str, Any], name: str | None = None) -> Vocabulary:
    """As `read`, from the parsed file."""
    try:
        config = content["config"]
        n_special, size = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
        pattern = str(config["pattern"])
        special = _special_tokens(content, n_special)
        if not 0 <= n_special < size <= MAX_TOKENS or len(content["vocab"]) < size - n_special:
            raise VocabkitError(f"{path}: {len(content['vocab'])} ranks for a vocabulary of {quote(str(size))} ids")
        text: list[bytes | None] = []
        for rank, entry in enumerate(content["vocab"][: size - n_special]):
            if entry["rank"] != rank:
                raise VocabkitError(f"{path}: rank {quote(str(entry['rank']))} stands where rank {rank} is expected")
            text.append(base64.b64decode(entry["token_bytes"], validate=True))
    except VocabkitError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise VocabkitError(f"{path}: not a tekken.json; {quote(repr(error))}") from error

    tokens: list[bytes | None] = []
    kinds: list[int] = []
    append_special(tokens, kinds, special)
    kind_array = np.array(kinds + [Kind.TEXT] * len(text), np.uint8)
    return make_vocabulary(
        name=name or path.stem,
        source=path.name,
        tokens=tokens + text,
        kinds=kind_array,
        roles=roles(dict(enumerate(special)), kind_array),
        segmentation=partial(_rules, n_special, size, pattern),
    )


def _special_tokens(content: Mapping[str, Any], n_special: int) -> list[str]:
    listed = content.get("special_tokens")
    named = dict(enumerate(family("tekken").tokens))
    if listed is not None:
        named = {int(str(entry["rank"])): str(entry["token_str"]) for entry in listed}
    return [named.get(i, f"<SPECIAL_{i}>") for i in range(n_special)]


def _rules(n_special: int, size: int, pattern: str) -> Rules | None:
    priority = np.full(size, np.nan, np.float32)
    priority[n_special:] = np.arange(size - n_special, dtype=np.float32)
    return byte_level_rules(priority, pattern=pattern)
