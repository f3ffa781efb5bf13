"""An exported Llava checkpoint of SmolLM2 computes what vision model, adapter and LLM compute one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import HIDDEN, loaded, loaded_llm, own_logits, projector, visual_tokens
from torch.testing import assert_close
from transformers import AutoTokenizer
from vision_models import PATCHES, VISION, clip, images

from vocabkit.adapter.config import AdapterConfig
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.llm.embeddings import open_embeddings
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.export.llava import ExportedLlava, export_llava
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import Target, transfer

VOCABULARY = 49_152
ONE = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
TWO = [{"type": "image"}, {"type": "text", "text": "Compare this with"}, {"type": "image"}]


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("vision") / "clip", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def exported(smollm: Path, vision: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedLlava:
    return export_llava(projector(576), vision, smollm, tmp_path_factory.mktemp("llava") / "out")


@dataclass(frozen=True)
class Loaded:
    """The exported checkpoint, and the LLM alone, in the same dtype."""

    model: Any
    processor: Any
    llm: Any
    dtype: torch.dtype


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def llava(exported: ExportedLlava, smollm: Path, request: pytest.FixtureRequest) -> Loaded:
    return Loaded(*loaded(exported.folder, request.param), loaded_llm(smollm, request.param), request.param)


def prompted(processor: Any, *contents: list[dict[str, str]]) -> Any:
    """What the processor makes of these user messages, with as many images as they have image parts."""
    chats = [[{"role": "user", "content": content}] for content in contents]
    texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
    counts = [sum(part["type"] == "image" for part in content) for content in contents]
    pictures = iter(images(sum(counts)))
    nested = [[next(pictures) for _ in range(count)] for count in counts]
    return processor(text=texts, images=nested, padding=True, return_tensors="pt")


@pytest.mark.parametrize("contents", [[ONE], [TWO], [ONE, TWO]], ids=["one image", "two images", "padded batch"])
def test_logits_equal_our_own_forward(llava: Loaded, exported: ExportedLlava, vision: Path, contents: Any) -> None:
    model, processor, dtype = llava.model, llava.processor, llava.dtype
    inputs = prompted(processor, *contents).to(dtype)
    assert int((inputs["input_ids"] == exported.image_token_id).sum()) == len(inputs["pixel_values"]) * PATCHES
    with torch.no_grad():
        found = model(**inputs).logits[..., :VOCABULARY]
    folded = projector(576, dtype=torch.bfloat16).to(dtype)  # rounded to the dtype of the LLM, as in the checkpoint
    visual = visual_tokens(vision, folded, inputs["pixel_values"])
    expected = own_logits(llava.llm, inputs, visual, exported.image_token_id)
    attended = inputs["attention_mask"].bool()
    if dtype == torch.float32:
        assert_close(found[attended], expected[attended], rtol=1e-4, atol=1e-4)
    else:  # padding the projector changes the order of its sums, so visual tokens differ by a rounding
        difference = (found[attended].float() - expected[attended].float()).abs()
        assert difference.max() < 0.02 * expected[attended].float().abs().max()
        assert difference.mean() < 0.005 * expected[attended].float().abs().mean()


def test_logits_depend_on_the_image(llava: Loaded) -> None:
    model, processor, dtype = llava.model, llava.processor, llava.dtype
    inputs = prompted(processor, ONE).to(dtype)
    with torch.no_grad():
        logits = model(**inputs).logits
        inputs["pixel_values"] = -inputs["pixel_values"]
        assert not torch.allclose(model(**inputs).logits, logits, rtol=0.01)


def test_padded_prompt_gives_the_same_logits_as_alone(llava: Loaded) -> None:
    model, processor, dtype = llava.model, llava.processor, llava.dtype
    with torch.no_grad():
        alone = model(**prompted(processor, ONE).to(dtype)).logits[0, -1].float()
        padded = model(**prompted(processor, ONE, TWO).to(dtype)).logits[0, -1].float()
    assert (padded - alone).abs().max() < (1e-4 if dtype == torch.float32 else 0.05) * alone.abs().max()


def test_text_alone_gives_the_logits_of_the_llm(llava: Loaded, smollm: Path) -> None:
    model, processor = llava.model, llava.processor
    text = "The quick brown fox jumps over"
    inputs = processor(text=text, return_tensors="pt")
    assert inputs["input_ids"].tolist() == [AutoTokenizer.from_pretrained(smollm)(text)["input_ids"]]
    with torch.no_grad():
        found, expected = model(**inputs, output_hidden_states=True), llava.llm(**inputs, output_hidden_states=True)
    assert torch.equal(found.hidden_states[-1], expected.hidden_states[-1])
    assert torch.equal(model.lm_head.weight[:VOCABULARY], llava.llm.lm_head.weight)
    assert_close(found.logits[..., :VOCABULARY], expected.logits, rtol=0.016, atol=1e-3)  # a row more: another order


def test_generates_text(llava: Loaded, exported: ExportedLlava) -> None:
    model, processor, dtype = llava.model, llava.processor, llava.dtype
    inputs = prompted(processor, ONE, TWO).to(dtype)
    output = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = output[:, inputs["input_ids"].shape[1] :]
    assert new.shape[1] <= 6
    assert all(text.strip() for text in processor.batch_decode(new, skip_special_tokens=True))
    assert not (new == exported.image_token_id).any()


def test_transferred_adapter_gives_the_same_logits_when_folded_into_the_checkpoint(
    smollm: Path, vision: Path, tmp_path: Path
) -> None:
    source, target = resolve("qwen2").vocabulary, resolve("smollm2").vocabulary
    shared = align([source, target]).select(range(500))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AdapterConfig.of(shared, llm="qwen2", vision_width=VISION, hidden_width=HIDDEN)
        adapter = LangBridgeAdapter(config, shared)
    moved, _ = transfer(adapter, Target(target, open_embeddings(smollm)), scale=0.3)
    out = export_llava(fold(moved, torch.float32), vision, smollm, tmp_path / "llava")
    model, processor = loaded(out.folder)
    llm = loaded_llm(smollm)
    inputs = prompted(processor, TWO)
    moved.float()
    visual = visual_tokens(vision, moved, inputs["pixel_values"])
    with torch.no_grad():
        found = model(**inputs).logits[..., :VOCABULARY]
    expected = own_logits(llm, inputs, visual, out.image_token_id)
    # the checkpoint holds the projector in bfloat16, as the LLM
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    unrelated = own_logits(llm, inputs, visual.roll(1, dims=-1), out.image_token_id)
    assert (unrelated - expected).abs().max() > 0.1 * expected.abs().max()
