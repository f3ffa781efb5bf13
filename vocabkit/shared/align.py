"""align: which tokens several vocabularies share, by bytes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from vocabkit.arrow.arrow_file import binary_array, take
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import Selection, SharedVocabulary, TokenizerInfo, make_shared
from vocabkit.tokenizer.load import load_tokenizers
from vocabkit.tokenizer.segmenter import unreachable
from vocabkit.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vocabkit.tokenizer.load import AnyTokenizer

MAX_TOKENIZERS = 50


def align(
    tokenizers: Sequence[AnyTokenizer],
    *,
    at_least: int | None = None,
    special_roles: bool = False,
    reachable: bool = False,
) -> SharedVocabulary:
    """Build the shared vocabulary of 2 to 50 tokenizers (V_shared of Eq. 5).

    A row is a byte string that at least `at_least` tokenizers contribute to text with one token. Rows are in the order
    of the first tokenizer's ids, then those it lacks in the order of the second's, and so on. Where a tokenizer has
    several ids for the bytes, the canonical one is used.

    Args:
        tokenizers: each as `load_tokenizer` takes it.
        at_least: how many of the tokenizers must have a token: None for all (intersection), 1 for the union. Below
            all, an id column holds null where its tokenizer lacks the token.
        special_roles: also add one row per role of special tokens (`bos`, `turn_end`, ...) that enough tokenizers
            have, after the text rows and sorted by role. Special tokens are never matched by their spelling.
        reachable: leave out tokens that encode never produces in some tokenizer that has them: their rows in its
            embedding table are untrained. How many is recorded in the selection.

    Raises:
        VocabkitError: fewer than 2 or more than 50 tokenizers, a name given twice, empty or not printable, `at_least`
            out of range, or no text shared; with `reachable`, a source does not say how text is cut.
    """
    vocabularies = load_tokenizers(tokenizers)
    names = [vocabulary.name for vocabulary in vocabularies]
    required = check_tokenizers(names, at_least)
    infos = [TokenizerInfo.of(vocabulary) for vocabulary in vocabularies]
    tokens, ids = _match(vocabularies, required)
    never = _never_produced(vocabularies, ids) if reachable else np.zeros(len(tokens), bool)
    if never.any():
        tokens, ids = take(tokens, np.flatnonzero(~never)), ids[:, ~never]
    roles = _match_roles(vocabularies, required) if special_roles else {}
    if len(tokens) == 0:
        raise VocabkitError(f"{', '.join(names)} share no text token; choose others, or a smaller `at_least`")
    if roles:
        tokens = pa.concat_arrays([tokens, binary_array([b""] * len(roles))])
        ids = np.concatenate([ids, np.array(list(roles.values()), np.int32).T], axis=1)
    return make_shared(
        tokens=tokens,
        ids=ids,
        tokenizers=infos,
        selection=Selection(required, f"id:{names[0]}", unreachable=int(never.sum()) if reachable else None),
        roles={role: len(tokens) - len(roles) + i for i, role in enumerate(roles)},
    )


def check_tokenizers(names: Sequence[str], at_least: int | None) -> int:
    """Return how many of these tokenizers must have a row: `at_least`, or all. Raises VocabkitError: as `align`."""
    count = len(names)
    required = count if at_least is None else at_least
    if not isinstance(required, int):
        raise TypeError(f"`at_least` is {type(required).__name__}; expected a whole number")
    if not 2 <= count <= MAX_TOKENIZERS:
        raise VocabkitError(f"{count} tokenizer{'' if count == 1 else 's'} given; align takes 2 to {MAX_TOKENIZERS}")
    if len(set(names)) < count:
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise VocabkitError(f"{', '.join(twice)} given twice; give each tokenizer a name of its own: NAME=TOKENIZER")
    if not 1 <= required <= count:
        raise VocabkitError(f"`at_least` is {required} for {count} tokenizers; choose 1 to {count}")
    return required


def unmatched_roles(tokenizers: Sequence[Vocabulary], shared: SharedVocabulary) -> dict[str, list[str]]:
    """Role without a row of `shared`, made of these tokenizers -> the tokenizers that lack it."""
    every = sorted({role for vocabulary in tokenizers for role in vocabulary.roles} - set(shared.roles))
    return {role: [v.name for v in tokenizers if v.role_id(role) < 0] for role in every}


def _match(vocabularies: Sequence[Vocabulary], required: int) -> tuple[pa.Array, np.ndarray]:
    """Return shared tokens, (R,) binary, and their ids in each vocabulary, (K, R) int32, -1 where it lacks one."""
    # Distinct tokens are numbered in order of first appearance, which is the row order we promise. A tokenizer that
    # stands too late in the list for a new token to reach `required` adds none.
    numbers: defaultdict[bytes, int] = defaultdict()
    own_ids, own_codes = [], []
    for at, vocabulary in enumerate(vocabularies):
        alignable = np.flatnonzero(vocabulary.alignable).astype(np.int32)
        tokens = itertools.compress(vocabulary.tokens.to_pylist(), vocabulary.alignable.tolist())
        if at == 0:  # all are new
            numbers = defaultdict(itertools.count(len(alignable)).__next__, zip(tokens, itertools.count()))
            codes = np.arange(len(alignable), dtype=np.int32)
        else:
            may_add = len(vocabularies) - at >= required
            found = map(numbers.__getitem__, tokens) if may_add else map(numbers.get, tokens, itertools.repeat(-1))
            codes = np.fromiter(found, np.int32, len(alignable))
        own_ids.append(alignable[codes >= 0])
        own_codes.append(codes[codes >= 0])
    presence = np.zeros(len(numbers), np.int32)
    for codes in own_codes:
        presence[codes] += 1
    kept = np.flatnonzero(presence >= required)
    ids = np.full((len(vocabularies), len(kept)), -1, np.int32)
    for row, vocabulary_ids, codes in zip(ids, own_ids, own_codes, strict=True):
        by_code = np.full(len(numbers), -1, np.int32)
        by_code[codes] = vocabulary_ids
        row[:] = by_code[kept]
    first = np.argmax(ids >= 0, axis=0)  # (R,) vocabulary that brought the token, never falling
    parts = [take(vocabulary.tokens, ids[at, first == at]) for at, vocabulary in enumerate(vocabularies)]
    return pa.concat_arrays(parts), ids


def _never_produced(vocabularies: Sequence[Vocabulary], ids: np.ndarray) -> np.ndarray:
    """Mark rows with an id, of `ids` (K, R), that its tokenizer never produces: (R,) bool."""
    never: np.ndarray = np.any(
        [np.isin(i, list(unreachable(v))) for i, v in zip(ids, vocabularies, strict=True)], axis=0
    )
    return never


def _match_roles(vocabularies: Sequence[Vocabulary], required: int) -> dict[str, list[int]]:
    """Map roles to ids in each vocabulary, -1 where it lacks the role."""
    every = sorted({role for vocabulary in vocabularies for role in vocabulary.roles})
    ids = {role: [vocabulary.role_id(role) for vocabulary in vocabularies] for role in every}
    return {role: found for role, found in ids.items() if sum(i >= 0 for i in found) >= required}
