"""lmms-eval on a task in its own format: its llava_hf on an exported checkpoint, and vocabkit's plugin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict
from PIL import Image
from programs import in_ecosystem
from small_adapters import randomised
from small_models import VISION
from transformers import pipeline

import vocabkit.serving  # noqa: F401
from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.llm.load import quiet_transformers
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.export.export import ExportOptions, export
from vocabkit.transfer.transfer import transfer

TASK = Path(__file__).parent / "colours"
PICTURES = [
    Image.new("RGB", (40, 30), "red"),
    Image.radial_gradient("L").convert("RGB"),
    Image.new("RGB", (40, 30), "red"),
]
QUESTIONS = ["Which?", "Which one of them is it?", "Which?"]


@pytest.fixture(scope="module")
def answers(small: Path) -> Any:
    """What a model of lmms-eval answers to questions about three pictures."""
    (small / "task").mkdir()
    rows = {"image": PICTURES, "question": QUESTIONS, "answer": ["none"] * 3}
    DatasetDict({"test": Dataset.from_dict(rows)}).save_to_disk(small / "data")
    (small / "task/colours.yaml").write_text(
        (TASK / "colours.yaml").read_text("utf-8").replace("DATASET", str(small / "data")), "utf-8"
    )
    (small / "task/colours.py").write_text((TASK / "colours.py").read_text("utf-8"), "utf-8")

    def answer(model: str, arguments: str, batch_size: int = 1) -> list[str]:
        out = small / f"logs-{model}-{len(arguments)}"
        fixed = ("--tasks", "colours", "--include_path", "task", "--batch_size", str(batch_size), "--device", "cpu")
        in_ecosystem(
            small, "-m", "lmms_eval", "--model", model, "--model_args", arguments, *fixed,
            "--output_path", out, "--log_samples",
        )  # fmt: skip
        (results,) = out.rglob("*_results.json")
        assert "exact_match,none" in json.loads(results.read_text("utf-8"))["results"]["colours"]
        (samples,) = out.rglob("*_samples_colours.jsonl")
        rows = [json.loads(line) for line in samples.read_text("utf-8").splitlines()]
        return [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]

    return answer


def test_the_plugin_answers_what_llava_hf_answers_with_the_exported_checkpoint(answers: Any) -> None:
    exported = answers("llava_hf", "pretrained=llava-mine,device_map=cpu")
    assert exported[0] == exported[2] != exported[1]
    assert answers("vocabkit", "adapter=projector,llm=llm,vision=clip") == [answer.strip() for answer in exported]


def test_the_plugin_answers_in_batches_what_transformers_answers_with_any_head(small: Path, answers: Any) -> None:
    llm = f"small={small / 'llm'}"
    shared = align([resolve(llm).vocabulary, resolve("qwen2").vocabulary])
    config = AdapterConfig.of(
        shared, llm="qwen2", vision_width=VISION, hidden_width=8, head="softmax", vision_model=str(small / "clip"),
        vision_keep_cls=False,
    )  # fmt: skip
    adapter, _ = transfer(randomised(LangBridgeAdapter(config, shared), 0), llm)
    adapter.save(small / "moved")
    export(adapter, "hf", small / "served", ExportOptions(llm=llm))
    expected = []
    with quiet_transformers():
        asks: Any = pipeline("image-text-to-text", model=str(small / "served"), device="cpu")
    for picture, question in zip(PICTURES, QUESTIONS, strict=True):
        chat = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
        settings = {"max_new_tokens": 8, "do_sample": False}
        said = asks(text=chat, generate_kwargs=settings, return_full_text=False)
        expected.append(said[0]["generated_text"].strip())
    assert answers("vocabkit", f"adapter=moved,llm={llm}", batch_size=2) == expected
    assert expected[0] == expected[2] != expected[1]
