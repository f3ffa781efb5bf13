"""Rows of the published LangBridge index maps, small vocabularies, and files and refusals for their tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, make_vocabulary

# First rows of the maps that CurryX-001/LangBridge published: spelling, id in
# 19200_Qwen_sub_llava_share_intersect_llama_qwen.json, id in 19200_llama3_..., count in sub_llava_....json
PUBLISHED = [
    ("Ġthe", 279, 279, 18429030), (",", 11, 11, 12418869), ("Ġa", 264, 264, 12351745), ("Ġof", 315, 315, 9699562),
    (".", 13, 13, 9249791), ("Ġis", 374, 374, 5498234), ("Ġand", 323, 323, 4787880), ("ĠThe", 576, 578, 4687923),
    ("Ġin", 304, 304, 4505739), ("Ġimage", 2168, 2217, 4347995), ("Ġto", 311, 311, 3207643),
    ("Ġwith", 448, 449, 2687418), ("Ġon", 389, 389, 2002627), ("image", 1805, 1843, 1805139),
    ("<", 27, 27, 1805032), ("The", 785, 791, 1740959), ("'s", 594, 596, 1561379), ("Ġscene", 6109, 6237, 1523525),
    ("Ġwhite", 4158, 4251, 1492863), ("Ġare", 525, 527, 1452482), (".ĊĊ", 382, 382, 1146396),
    ("Ġadding", 7842, 7999, 963305), ("Ġbackground", 4004, 4092, 944210), (">", 29, 29, 903450),
    (">Ċ", 397, 397, 901610), ("Ġblue", 6303, 6437, 898429), ('Ġ"', 330, 330, 882395), ("Ġits", 1181, 1202, 866734),
    ("Ġthis", 419, 420, 866049), ("Ġblack", 3691, 3776, 849541), ("Ġthat", 429, 430, 848391),
    ("Ġtext", 1467, 1495, 786489), ("Ġfrom", 504, 505, 774364), ("Ġfor", 369, 369, 727928),
    ("Ġcaptures", 40155, 41255, 708256), ("Ġtheir", 862, 872, 691694), ("What", 3838, 3923, 673903),
    ("Ġbe", 387, 387, 646164), ("Ġat", 518, 520, 628958), ("In", 641, 644, 628887),
]  # fmt: skip
QWEN_MAP = {spelling: qwen for spelling, qwen, _, _ in PUBLISHED}
LLAMA_MAP = {spelling: llama for spelling, _, llama, _ in PUBLISHED}
COUNTS = {spelling: count for spelling, _, _, count in PUBLISHED}
RANKED_LLAMA_MAP = [{spelling: [llama, rank]} for rank, (spelling, llama) in enumerate(LLAMA_MAP.items())]
"""The layout of 25600_Llama3_sub_llava_share_intersect_llama_qwen.json."""


def written(folder: Path, content: Any, name: str = "map.json") -> Path:
    """A file of `content`: text, or anything as JSON."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), "utf-8")
    return path


def refusal(call: Any, *arguments: Any, **options: Any) -> str:
    """The one line that `call` is refused with."""
    with pytest.raises(VocabkitError) as caught:
        call(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable(), message
    return message


def small(tokens: Sequence[bytes | None], kinds: Sequence[int] | None = None, **options: Any) -> Vocabulary:
    """A vocabulary of these tokens, all of them text unless `kinds` says otherwise."""
    numbers = np.array(kinds if kinds is not None else [Kind.TEXT] * len(tokens), np.uint8)
    return make_vocabulary(name=options.pop("name", "small"), source="test", tokens=tokens, kinds=numbers, **options)
