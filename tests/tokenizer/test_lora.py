"""LoRA weights name the LLM that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizer_files import write_json
from vocabularies import refusal

from vocabkit.tokenizer.lora import LORA_CONFIG, is_lora, lora_base


@pytest.mark.parametrize(
    ("base", "revision", "expected"),
    [
        ("owner/name", None, "owner/name"),
        ("owner/name", "", "owner/name"),
        ("owner/name", "v2", "owner/name@v2"),
        ("owner/name@v1", "v2", "owner/name@v1"),
        ("smollm2-135m", "v2", "smollm2-135m"),
        ("here/llm", "v2", "here/llm"),
        ("owner/name", 2, "owner/name"),
    ],
    ids=str,
)
def test_revision_belongs_to_a_hub_id_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str, revision: Any, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here/llm").mkdir(parents=True)
    write_json(tmp_path / LORA_CONFIG, {"base_model_name_or_path": base, "revision": revision})
    assert is_lora(tmp_path)
    assert lora_base(tmp_path) == expected


@pytest.mark.parametrize("base", [None, "", 7, ["owner/name"]])
def test_lora_weights_that_name_no_llm_raise(tmp_path: Path, base: Any) -> None:
    file = write_json(tmp_path / LORA_CONFIG, {"base_model_name_or_path": base})
    assert refusal(lora_base, tmp_path) == f"{file}: names no LLM that the LoRA weights belong to"


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "damaged, not JSON"), ("[" * 99_999, "damaged, not JSON"), ("[]", "not the config")]
)
def test_damaged_config_raises(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / LORA_CONFIG).write_text(content, "utf-8")
    assert reason in refusal(lora_base, tmp_path)
