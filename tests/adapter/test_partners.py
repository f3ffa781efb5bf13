"""partners: an adapter accepts the shared vocabulary, the encoder and the LLM that it belongs to, and no other."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor
from vocabularies import text_vocabulary

from vocabkit.adapter.config import SAMPLE, AdapterConfig, LLMInfo, MLPConfig, Transfer
from vocabkit.adapter.partners import (
    SKETCH,
    EncoderInfo,
    LLMTable,
    _sketch,
    check_encoder,
    check_llm,
    check_shared,
    llm_info,
    llm_spellings,
    unknown_encoder,
)
from vocabkit.errors import VocabkitError, VocabkitWarning
from vocabkit.shared.align import align
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary, make_vocabulary

TOKENS = [
    bytes([65 + first, 97 + second, 97 + third]) for first in range(4) for second in range(25) for third in range(25)
]
ONE, TWO = text_vocabulary("one", *TOKENS), text_vocabulary("two", *reversed(TOKENS))
SHARED = align([ONE, TWO])
ENCODER = EncoderInfo(
    name="vit",
    layer=-2,
    keep_cls=False,
    pool=None,
    grid=(2, 2),
    tokens=4,
    width=3,
    precision="float32",
    fingerprint="sha256:f",
)


def rows_of(seed: int, width: int = 8, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random embedding rows for every token."""
    return torch.randn(len(TOKENS), width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def table(vocabulary: Vocabulary, rows: Tensor, rounding: float = 0.0) -> LLMTable:
    """An LLM with these rows."""
    return LLMTable("source", vocabulary, *rows.shape, lambda ids: rows[torch.from_numpy(ids)], rounding)


ROWS_ONE, ROWS_TWO = rows_of(1, 6), rows_of(2)
LLM_ONE, LLM_TWO = table(ONE, ROWS_ONE), table(TWO, ROWS_TWO)
SIZES: dict[str, Any] = {"vision_width": 3, "hidden_width": 4, "vision_fingerprint": "sha256:f"}
CONFIG = AdapterConfig.of(SHARED, llm="one", llm_info=llm_info(LLM_ONE), **SIZES)
MOVED = dataclasses.replace(CONFIG, transfer=Transfer("two", 8, "sha256:0", "two", "error", llm_info=llm_info(LLM_TWO)))
PROJECTOR = MLPConfig(llm_width=8, llm="two", llm_info=llm_info(LLM_TWO), **SIZES)
FOR_TWO = pytest.mark.parametrize(
    ("config", "shared"), [(MOVED, SHARED), (PROJECTOR, None)], ids=["moved", "projector"]
)


def test_own_partners_pass_without_a_word() -> None:
    with warnings.catch_warnings(action="error"):
        check_shared(CONFIG, SHARED)
        check_encoder(CONFIG, ENCODER, "vit")
        assert check_llm(CONFIG, SHARED, LLM_ONE) == 0
        assert check_llm(CONFIG, SHARED, LLM_TWO) == 0  # another LLM of V_shared: Eq. 6 without a transfer
        assert check_llm(MOVED, SHARED, LLM_TWO) == 0
        assert check_llm(PROJECTOR, None, LLM_TWO) == 0


def test_other_shared_vocabulary_raises() -> None:
    with pytest.raises(VocabkitError, match="its shared vocabulary is missing"):
        check_shared(CONFIG, None)
    with pytest.raises(VocabkitError, match="but the head was trained on"):
        check_shared(CONFIG, SHARED.select([1, 0]))


# ---- the vision encoder ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recorded", "changed", "message"),
    [
        ({}, {"width": 5}, "width 5, but the adapter takes 3"),
        ({"vision_layer": -2}, {"layer": -1}, "layer -1, but the adapter was trained with layer -2"),
        ({"vision_keep_cls": False}, {"keep_cls": True}, "keep_cls true, but .* with keep_cls false"),
        ({"vision_keep_cls": False, "vision_pool": (2, 2)}, {"pool": (1, 2)}, "pool 1x2, but .* with pool 2x2"),
        ({}, {"fingerprint": "sha256:g"}, "not the vision encoder that the adapter was trained with"),
    ],
)
def test_other_encoder_raises(recorded: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    config = dataclasses.replace(CONFIG, **recorded)
    with pytest.raises(VocabkitError, match=message):
        check_encoder(config, EncoderInfo(**{**ENCODER, **changed}), "vit")  # type: ignore[typeddict-item]


def test_unrecorded_encoder_settings_are_not_compared() -> None:
    other = EncoderInfo(**{**ENCODER, "layer": 5, "keep_cls": True})  # type: ignore[typeddict-item]
    with warnings.catch_warnings(action="error"):
        check_encoder(CONFIG, other, "vit")
    with pytest.raises(VocabkitError, match="layer 5, but the adapter was trained with layer 4"):
        check_encoder(dataclasses.replace(CONFIG, vision_layer=4), other, "vit")


def test_encoder_without_a_recorded_fingerprint_is_told() -> None:
    config = dataclasses.replace(CONFIG, vision_fingerprint=None)
    with pytest.warns(VocabkitWarning, match="vit: taken as the adapter's own vision encoder"):
        check_encoder(config, ENCODER, "vit")


def test_encoder_that_cannot_be_compared_is_told_beside_the_recorded_one() -> None:
    for recorded, says in (("vit", "encoder, of which"), ("org/clip", "encoder, 'org/clip', of which")):
        with pytest.warns(VocabkitWarning, match=says):
            unknown_encoder(dataclasses.replace(CONFIG, vision_model=recorded), "vit")


# ---- the LLM -----------------------------------------------------------------------------------------------------


def test_sketch_of_rows_is_the_one_that_published_adapters_record() -> None:
    """A sum of signed rows per column; the signs must stay, or no adapter would know its LLM any more."""
    found = _sketch(torch.arange(1.0, 2 * SKETCH + 2)[None])
    assert found[:6].tolist() == [-769, -260, -256, -264, 266, -256]
    assert found.sum() == -931


@FOR_TWO
def test_llm_of_another_width_raises(config: AdapterConfig | MLPConfig, shared: Any) -> None:
    with pytest.raises(VocabkitError, match=r"embeddings have width 6, but the adapter .* width 8 for two"):
        check_llm(config, shared, table(TWO, rows_of(2, 6)))


def test_llm_with_other_ids_raises() -> None:
    with pytest.raises(
        VocabkitError, match=r"source: .* other ids than two has .* for 2500 of 2500 tokens, the first is 'Aaa'"
    ):
        check_llm(MOVED, SHARED, table(ONE, ROWS_TWO))


def test_projector_refuses_an_llm_with_another_tokenizer_even_with_the_same_rows() -> None:
    with pytest.raises(VocabkitError, match=r"source: its tokenizer is not that of two, .*10[0-9][0-9] of 1024 ids"):
        check_llm(PROJECTOR, None, table(ONE, ROWS_TWO), other_weights=True)


def test_tokenizer_that_takes_a_few_tokens_for_special_is_the_same() -> None:
    kinds = np.full(len(TOKENS), Kind.TEXT)
    kinds[[0, 700]] = Kind.SPECIAL
    renamed = [*reversed(TOKENS)]
    renamed[-1] = b"renamed"
    other = make_vocabulary(name="two", source="two", tokens=renamed, kinds=kinds)
    assert check_llm(PROJECTOR, None, table(other, ROWS_TWO)) == 0


def test_llm_without_a_column_raises() -> None:
    with pytest.raises(VocabkitError, match=r"source: .* has columns of one, two, none of three"):
        check_llm(CONFIG, SHARED, table(text_vocabulary("three", b"x", b"y"), rows_of(3)))


def test_llm_ids_are_those_of_its_column() -> None:
    assert llm_spellings(SHARED, ONE, "one").ids.tolist() == SHARED.ids_for("one").tolist()
    assert llm_spellings(SHARED, TWO, "two").ids.tolist() == SHARED.ids_for("two").tolist()


@FOR_TWO
def test_other_weights_raise_with_their_distance_unless_they_are_accepted(
    config: AdapterConfig | MLPConfig, shared: Any
) -> None:
    tuned = table(TWO, ROWS_TWO + 0.1 * rows_of(3))
    with pytest.raises(
        VocabkitError, match=r"other embedding rows than two .*relative difference 0\.[01]\d*.*`other_w"
    ):
        check_llm(config, shared, tuned)
    with pytest.warns(VocabkitWarning, match="source: taken as two"):
        assert check_llm(config, shared, tuned, other_weights=True) == pytest.approx(0.1, rel=0.3)


def test_untransferred_adapter_knows_the_llm_of_its_training() -> None:
    with pytest.raises(VocabkitError, match="other embedding rows than one"):
        check_llm(CONFIG, SHARED, table(ONE, rows_of(3, 6)))


def test_one_changed_row_of_the_sample_is_noticed() -> None:
    rows = ROWS_TWO.clone()
    rows[0, 0] += 1
    with pytest.raises(VocabkitError, match="other embedding rows"):
        check_llm(PROJECTOR, None, table(TWO, rows))


@pytest.mark.parametrize("distance", [1e-3, 0.03, 1.0])
def test_distance_is_estimated_to_a_third(distance: float) -> None:
    rows, other = rows_of(4, 64, torch.float32), rows_of(5, 64, torch.float32)
    config = dataclasses.replace(PROJECTOR, llm_width=64, llm_info=llm_info(table(TWO, rows)))
    assert check_llm(config, None, table(TWO, rows + distance * other), other_weights=True) == pytest.approx(
        distance, rel=0.33
    )


@pytest.mark.parametrize("recorded", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_rounded_copy_is_the_same_llm(recorded: torch.dtype, given: torch.dtype) -> None:
    rows = rows_of(4, dtype=torch.float32)
    config = dataclasses.replace(PROJECTOR, llm_info=llm_info(table(TWO, rows.to(recorded))))
    assert check_llm(config, None, table(TWO, rows.to(given))) == 0
    with pytest.raises(VocabkitError, match="other embedding rows"):
        check_llm(config, None, table(TWO, (rows + 0.01 * rows_of(5)).to(given)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_the_recorded_dtype_may_not_differ_by_a_rounding(dtype: torch.dtype) -> None:
    rows = rows_of(4, dtype=dtype)
    config = dataclasses.replace(PROJECTOR, llm_info=llm_info(table(TWO, rows)))
    changed = rows.clone()
    changed[::10] *= 1 + torch.finfo(dtype).eps
    with pytest.raises(VocabkitError, match="other embedding rows"):
        check_llm(config, None, table(TWO, changed))


@pytest.mark.parametrize("recorded", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", [torch.bfloat16, torch.float16])
def test_rounded_copy_loaded_in_float32_is_the_same_llm(recorded: torch.dtype, given: torch.dtype) -> None:
    rows = rows_of(4, dtype=torch.float32)
    config = dataclasses.replace(PROJECTOR, llm_info=llm_info(table(TWO, rows.to(recorded).float())))
    assert check_llm(config, None, table(TWO, rows.to(given).float())) == 0
    assert check_llm(config, None, table(TWO, rows.to(given))) == 0


def test_quantised_copy_is_the_same_llm_as_far_as_its_rounding_goes() -> None:
    quantised = ROWS_TWO.float() + 0.08 * rows_of(3).float()
    assert check_llm(PROJECTOR, None, table(TWO, quantised, rounding=0.17)) == 0
    with pytest.raises(VocabkitError, match="other embedding rows"):
        check_llm(PROJECTOR, None, table(TWO, quantised, rounding=0.04))


def test_more_rows_and_special_tokens_are_the_same_llm() -> None:
    more = make_vocabulary(
        name="two",
        source="two",
        tokens=[*reversed(TOKENS), b"<pad>"],
        kinds=np.array([Kind.TEXT] * len(TOKENS) + [Kind.SPECIAL]),
        roles={"pad": len(TOKENS)},
    )
    assert check_llm(PROJECTOR, None, table(more, torch.cat([ROWS_TWO, ROWS_TWO[:70]]))) == 0
    tuned = torch.cat([ROWS_TWO + 0.1 * rows_of(3), ROWS_TWO[:1]])
    assert check_llm(PROJECTOR, None, table(more, tuned), other_weights=True) > 0


def test_record_reads_a_sample_of_the_rows() -> None:
    read: list[int] = []

    def counted(ids: Any) -> Tensor:
        read.append(len(ids))
        return ROWS_TWO[torch.from_numpy(ids)]

    llm_info(dataclasses.replace(LLM_TWO, read=counted))
    assert read == [SAMPLE]


# ---- adapters of earlier versions --------------------------------------------------------------------------------


def test_transferred_adapter_without_a_record_is_compared_by_its_own_rows() -> None:
    assert MOVED.transfer is not None
    old = dataclasses.replace(MOVED, transfer=dataclasses.replace(MOVED.transfer, llm_info=None))
    own = ROWS_TWO[torch.from_numpy(SHARED.ids_for("two"))]
    with warnings.catch_warnings(action="error"):
        assert check_llm(old, SHARED, LLM_TWO, rows=own) == 0
        assert check_llm(old, SHARED, LLM_TWO, rows=own * math.sqrt(8)) == 0  # as of an LLM with a multiplier
    with pytest.raises(VocabkitError, match=r"other embedding rows .*relative difference 0\.99|1"):
        check_llm(old, SHARED, table(TWO, rows_of(3)), rows=own)


@pytest.mark.parametrize(
    ("config", "shared", "llm", "compared"),
    [(CONFIG, SHARED, LLM_ONE, "tokenizer"), (PROJECTOR, None, LLM_TWO, "width")],
    ids=["untransferred", "projector"],
)
def test_what_can_not_be_compared_is_told(config: Any, shared: Any, llm: LLMTable, compared: str) -> None:
    with pytest.warns(VocabkitWarning, match=f"source: only its {compared} is compared with that of (one|two)"):
        check_llm(dataclasses.replace(config, llm_info=None), shared, llm)


@pytest.mark.parametrize("config", [CONFIG, MOVED, PROJECTOR], ids=["untransferred", "moved", "projector"])
def test_record_survives_json_and_may_be_missing(config: Any) -> None:
    stored = msgspec.json.decode(msgspec.json.encode(config.to_json()))
    assert type(config).from_json(stored) == config
    for inner in (stored, stored.get("adapter", {})):
        for name in ("llm_info", "vision_fingerprint", "trained"):
            inner.pop(name, None)
    old = type(config).from_json(stored)
    assert old.output_info is None
    assert old.to_json() == stored


@pytest.mark.parametrize(
    "changed",
    [
        {"ids": 0},
        {"table": (0, 8)},
        {"dtype": "int8"},
        {"rounding": math.nan},
        {"sketch": "AAAA"},
        {"sketch": "?" * 1368},
        {"tokens": "AAAA"},
    ],
    ids=str,
)
def test_damaged_record_raises(changed: dict[str, Any]) -> None:
    with pytest.raises(VocabkitError, match="the record of an LLM"):
        dataclasses.replace(llm_info(LLM_TWO), **changed)
    assert isinstance(llm_info(LLM_TWO), LLMInfo)
