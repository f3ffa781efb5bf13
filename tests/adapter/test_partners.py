"""partners: an adapter accepts the shared vocabulary, the encoder and the LLM that it belongs to, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from vocabularies import text_vocabulary

from vocabkit.adapter.config import AdapterConfig, MLPConfig, Transfer
from vocabkit.adapter.partners import EncoderInfo, check_encoder, check_llm, check_shared, llm_ids
from vocabkit.errors import VocabkitError
from vocabkit.shared.align import align

ONE, TWO = text_vocabulary("one", b"x", b"y"), text_vocabulary("two", b"y", b"x")
SHARED = align([ONE, TWO])
CONFIG = AdapterConfig.of(SHARED, llm="one", vision_width=3, hidden_width=4)
MOVED = AdapterConfig.of(
    SHARED, llm="one", vision_width=3, hidden_width=4, transfer=Transfer("two", 8, "sha256:0", "two", "error")
)
PROJECTOR = MLPConfig(vision_width=3, hidden_width=4, llm_width=8, llm="two")
ENCODER = EncoderInfo(
    name="vit",
    layer=-2,
    keep_cls=False,
    pool=None,
    grid=(2, 2),
    tokens=4,
    width=3,
    precision="float32",
    fingerprint="f",
)


def test_own_partners_pass() -> None:
    check_shared(CONFIG, SHARED)
    check_encoder(CONFIG, ENCODER, "vit")
    check_llm(CONFIG, SHARED, ONE, 6, "one")
    check_llm(CONFIG, SHARED, TWO, 8, "two")
    check_llm(MOVED, SHARED, TWO, 8, "two")
    check_llm(PROJECTOR, None, TWO, 8, "two")


def test_other_shared_vocabulary_raises() -> None:
    with pytest.raises(VocabkitError, match="its shared vocabulary is missing"):
        check_shared(CONFIG, None)
    with pytest.raises(VocabkitError, match="but the head was trained on"):
        check_shared(CONFIG, SHARED.select([1, 0]))


@pytest.mark.parametrize(
    ("recorded", "changed", "message"),
    [
        ({}, {"width": 5}, "width 5, but the adapter takes 3"),
        ({"vision_layer": -2}, {"layer": -1}, "layer -1, but the adapter was trained with layer -2"),
        ({"vision_keep_cls": False}, {"keep_cls": True}, "keep_cls true, but .* with keep_cls false"),
        ({"vision_keep_cls": False, "vision_pool": (2, 2)}, {"pool": (1, 2)}, "pool 1x2, but .* with pool 2x2"),
    ],
)
def test_other_encoder_setting_raises(recorded: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    config = AdapterConfig.of(SHARED, llm="one", vision_width=3, hidden_width=4, **recorded)
    with pytest.raises(VocabkitError, match=message):
        check_encoder(config, EncoderInfo(**{**ENCODER, **changed}), "vit")  # type: ignore[typeddict-item]


def test_unrecorded_encoder_settings_are_not_compared() -> None:
    check_encoder(CONFIG, EncoderInfo(**{**ENCODER, "layer": 5, "keep_cls": True}), "vit")  # type: ignore[typeddict-item]


@pytest.mark.parametrize("config", [MOVED, PROJECTOR])
def test_llm_of_another_width_raises(config: AdapterConfig | MLPConfig) -> None:
    shared = SHARED if config is MOVED else None
    with pytest.raises(VocabkitError, match=r"embeddings have width 6, but the adapter .* width 8 for two"):
        check_llm(config, shared, TWO, 6, "two")


def test_llm_with_other_ids_raises() -> None:
    with pytest.raises(
        VocabkitError, match=r"source: .* other ids than two has .* for 2 of 2 tokens, the first is 'x'"
    ):
        check_llm(MOVED, SHARED, ONE, 8, "source")


def test_llm_without_a_column_raises() -> None:
    with pytest.raises(VocabkitError, match=r"source: .* has columns of one, two, none of three"):
        check_llm(CONFIG, SHARED, text_vocabulary("three", b"x", b"y"), 6, "source")


def test_llm_ids_are_those_of_its_column() -> None:
    assert llm_ids(SHARED, ONE, "one").tolist() == SHARED.ids_for("one").tolist()
    assert llm_ids(SHARED, TWO, "two").tolist() == SHARED.ids_for("two").tolist()
