"""Visual tokens stand where the images of a prompt stand; losses and logits are those of the exported checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_world import World
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    Gemma3TextConfig,
    Lfm2Config,
    LlamaConfig,
    LlavaForConditionalGeneration,
    MambaConfig,
    PreTrainedConfig,
)
from vision_models import VISION, images

from vocabkit.adapter.config import AdapterConfig, MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.data.samples import Turn
from vocabkit.errors import VocabkitError
from vocabkit.llm.load import LLM, load_llm, quiet_transformers
from vocabkit.llm.lvlm import LVLM, caption_loss, collate, embed, generate, write_answers
from vocabkit.llm.prompts import IGNORED, IMAGE_ID, Prompt, Template, encode_question, encode_sample
from vocabkit.shared.shared_vocabulary import open_shared
from vocabkit.tokenizer.catalog import without_name
from vocabkit.transfer.export.llava import export_llava
from vocabkit.transfer.fold import fold
from vocabkit.transfer.transfer import open_target, transfer
from vocabkit.vision.encoder import open_vision

TOKENS = 3
"""Visual tokens of an image."""
WIDTH = 24


@pytest.fixture(scope="module")
def llm(world: World) -> LLM:
    return load_llm(world.one)


def adapter(world: World, head: Any = "linear") -> LangBridgeAdapter:
    """A new one for LLM one."""
    torch.manual_seed(0)
    shared = open_shared(world.shared)
    config = AdapterConfig.of(shared, llm="one", vision_width=VISION, hidden_width=16, head=head, vision_layer=-2)
    return LangBridgeAdapter(config, shared).requires_grad_(False)


def prompt(llm: LLM, *turns: tuple[str, str]) -> Prompt:
    return encode_sample(llm.tokenizer, [Turn(*turn) for turn in turns], "completion", TOKENS, longest=1000)


def features(count: int, seed: int = 0) -> list[Tensor]:
    return list(torch.randn(count, TOKENS, VISION, generator=torch.Generator().manual_seed(seed)))


def by_hand(llm: LLM, prompt: Prompt, visual: Tensor) -> float:
    """The caption loss of one prompt alone, token by token; visual: (tokens in the prompt, D)."""
    table, places = llm.model.get_input_embeddings().weight, iter(visual)
    rows = torch.stack([next(places) if token == IMAGE_ID else table[token] for token in prompt.ids])
    logits = llm.model(inputs_embeds=rows[None]).logits[0]
    loss = 0.0
    for position, label in enumerate(prompt.labels):
        if label != IGNORED:
            loss -= logits[position - 1].log_softmax(dim=-1)[label].item()
    return loss


@pytest.fixture(scope="module")
def prompts(llm: LLM) -> list[Prompt]:
    """With one image, none, two in one turn, and one in each of two turns: five in all."""
    return [
        prompt(llm, ("Look: <image>\nThis is", "a dog.")),
        prompt(llm, ("Say", "something much longer than all the others, to have padding.")),
        prompt(llm, ("<image><image> Both are", "red")),
        prompt(llm, ("A <image>", "one"), ("B <image>", "two")),
    ]


# ---- where visual tokens stand -----------------------------------------------------------------------------------


def test_visual_tokens_take_their_places_in_order(llm: LLM, prompts: list[Prompt]) -> None:
    visual = torch.arange(5 * TOKENS * WIDTH, dtype=torch.float32).view(5, TOKENS, WIDTH)
    batch = collate(prompts, [])
    found = embed(llm.model, batch.ids, visual)
    assert found.shape == (*batch.ids.shape, WIDTH)
    assert_close(found[batch.ids == IMAGE_ID], visual.view(-1, WIDTH))
    text = batch.ids != IMAGE_ID
    assert_close(found[text], llm.model.get_input_embeddings().weight[batch.ids[text]])


def test_wrong_number_of_visual_tokens_raises(llm: LLM, prompts: list[Prompt]) -> None:
    for count in (0, 4, 6):
        with pytest.raises(VocabkitError, match=f"{count} images of 3 visual tokens for 15 places in the text"):
            embed(llm.model, collate(prompts, []).ids, torch.zeros(count, TOKENS, WIDTH))


def test_text_alone_does_not_call_the_adapter(world: World, llm: LLM, prompts: list[Prompt]) -> None:
    for head in ("linear", "softmax"):
        lvlm = LVLM(llm, adapter(world, head))
        loss = lvlm(collate(prompts[1:2], [], width=VISION))
        assert loss.item() == pytest.approx(by_hand(llm, prompts[1], torch.empty(0, WIDTH)), rel=1e-4)


# ---- the caption loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "softmax"])
def test_caption_loss_sums_answer_tokens_of_each_sample(
    world: World, llm: LLM, prompts: list[Prompt], head: str
) -> None:
    lvlm, shown = LVLM(llm, adapter(world, head)), features(5)
    found = lvlm(collate(prompts, shown))
    visual = lvlm.visual_tokens(torch.stack(shown))
    first = [0, 1, 1, 3, 5]
    expected = [
        by_hand(llm, each, visual[first[n] : first[n + 1]].reshape(-1, WIDTH)) for n, each in enumerate(prompts)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_llm_without_logits_to_keep_gives_the_same_loss(world: World, llm: LLM, prompts: list[Prompt]) -> None:
    visual = LVLM(llm, adapter(world)).visual_tokens(torch.stack(features(5)))

    class Plain(nn.Module):
        """As LLMs were before they could leave out logits."""

        def __init__(self) -> None:
            super().__init__()
            self.get_input_embeddings = llm.model.get_input_embeddings

        def forward(self, inputs_embeds: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
            return llm.model(inputs_embeds=inputs_embeds, attention_mask=attention_mask, use_cache=use_cache)

    batch = collate(prompts, [])
    assert_close(caption_loss(Plain(), batch, visual), caption_loss(llm.model, batch, visual))


def test_losses_of_a_half_precision_llm_are_summed_in_float32() -> None:
    model, visual = small("all it has read").bfloat16(), torch.randn(len(ALIKE), TOKENS, WIDTH)
    for n, each in enumerate(ALIKE):
        batch = collate([each], [])
        found = caption_loss(model, batch, visual[n : n + 1])
        logits = model(inputs_embeds=embed(model, batch.ids, visual[n : n + 1])).logits.double()
        expected = -logits[0, :-1].log_softmax(dim=-1).gather(1, batch.labels[0, 1:, None].clamp_min(0))
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(expected[batch.labels[0, 1:] != IGNORED].sum().item(), rel=1e-6)


def test_padding_side_does_not_change_the_loss(world: World, llm: LLM, prompts: list[Prompt]) -> None:
    lvlm = LVLM(llm, adapter(world))
    left, right = (lvlm(collate(prompts, features(5), left=side)) for side in (True, False))
    assert_close(left, right, rtol=1e-4, atol=1e-4)


def test_answer_tokens_counts_labels(llm: LLM, prompts: list[Prompt]) -> None:
    assert collate(prompts[:1], []).answer_tokens == len(" a dog.")
    assert collate(prompts, []).answer_tokens == sum(label != IGNORED for each in prompts for label in each.labels)


def test_loss_depends_on_images_and_reaches_the_adapter(world: World, llm: LLM, prompts: list[Prompt]) -> None:
    lvlm = LVLM(llm, adapter(world).requires_grad_(True))
    one, two = (lvlm(collate(prompts[:1], features(1, seed))) for seed in (0, 1))
    assert one.item() != two.item()
    one.backward()
    assert all(parameter.grad.any() for parameter in lvlm.connector.parameters() if parameter.grad is not None)
    assert all(parameter.grad is None for parameter in lvlm.llm.parameters())


# ---- what all sequences begin with -------------------------------------------------------------------------------


START = list(range(1, 25))
ALIKE = [
    Prompt([*START, *[IMAGE_ID] * TOKENS, 30, 31], [IGNORED] * 28 + [31]),
    Prompt([*START, 40, *[IMAGE_ID] * TOKENS, 30, 32, 33, 34], [IGNORED] * 29 + [32, 33, 34]),
    Prompt([*START, *[IMAGE_ID] * TOKENS, 35], [IGNORED] * 27 + [35]),
]
SMALL: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "pad_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, PreTrainedConfig] = {
    "all it has read": LlamaConfig(**SMALL),
    "a window shorter than the start": Gemma3TextConfig(
        **SMALL, head_dim=12, sliding_window=5, layer_types=["sliding_attention", "full_attention"]
    ),
    "convolutions": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
    "a state": MambaConfig(vocab_size=50, hidden_size=WIDTH, num_hidden_layers=2, state_size=4, pad_token_id=0),
}


def small(family: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[family]).eval().requires_grad_(False)


def positions_read(model: Any, loss: Callable[[], Tensor]) -> int:
    """Through the LLM's first layer, by all its passes."""
    read = []
    handle = model.model.layers[0].register_forward_hook(lambda _layer, given, _out: read.append(given[0].shape[:2]))
    loss()
    handle.remove()
    return sum(sequences * length for sequences, length in read)


@pytest.mark.parametrize("family", FAMILIES)
def test_common_prefix_gives_losses_and_gradients_of_single_sequences(family: str) -> None:
    model, visual = small(family), torch.randn(len(ALIKE), TOKENS, WIDTH).requires_grad_()
    found = caption_loss(model, collate(ALIKE, []), visual)
    alone = [caption_loss(model, collate([each], []), visual[n : n + 1]) for n, each in enumerate(ALIKE)]
    assert_close(found, torch.cat(alone))
    gradients = [torch.autograd.grad(losses.sum(), visual)[0] for losses in (found, torch.cat(alone))]
    assert_close(*gradients)


def assert_losses_of_single_sequences(model: Any, prompts: list[Prompt], *, left: bool = False) -> None:
    """The losses of a batch are those of its sequences alone."""
    visual = torch.randn(len(prompts), TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    found = caption_loss(model, collate(prompts, [], left=left), visual)
    alone = [caption_loss(model, collate([each], []), visual[n : n + 1]) for n, each in enumerate(prompts)]
    assert_close(found, torch.cat(alone))


def test_answers_in_the_common_prefix_count() -> None:
    model = small("all it has read")
    answered = [Prompt(each.ids, [*each.labels[:10], *START[10:14], *each.labels[14:]]) for each in ALIKE]
    assert_losses_of_single_sequences(model, answered)
    first = [Prompt(each.ids, [IGNORED, START[1], *each.labels[2:]]) for each in ALIKE]
    assert_losses_of_single_sequences(model, first)


def test_padding_on_the_left_is_not_a_common_prefix_of_real_ids_0() -> None:
    zeros = Prompt([0] * 20 + ALIKE[0].ids, [IGNORED] * 20 + ALIKE[0].labels)
    assert_losses_of_single_sequences(small("all it has read"), [zeros, ALIKE[0]], left=True)


def test_common_prefix_is_read_once_by_an_llm_without_logits_to_keep() -> None:
    inner = small("all it has read")

    class Plain(nn.Module):
        """An LLM with a cache that always computes all logits."""

        config, model, get_input_embeddings = inner.config, inner.model, inner.get_input_embeddings

        def forward(
            self, inputs_embeds: Tensor, use_cache: bool, past_key_values: Any = None, attention_mask: Any = None
        ) -> Any:
            return inner(
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                past_key_values=past_key_values,
                attention_mask=attention_mask,
            )

    plain, batch, visual = Plain(), collate(ALIKE, []), torch.randn(len(ALIKE), TOKENS, WIDTH)
    assert_close(caption_loss(plain, batch, visual), caption_loss(inner, batch, visual))
    rest = batch.ids[:, len(START) :].numel()
    assert positions_read(plain, lambda: caption_loss(plain, batch, visual)) == len(START) + rest


@pytest.mark.parametrize("family", ["all it has read", "a window shorter than the start"])
def test_frozen_llm_reads_common_prefix_once(family: str) -> None:
    model, visual, batch = small(family), torch.randn(len(ALIKE), TOKENS, WIDTH), collate(ALIKE, [])
    rest = batch.ids[:, len(START) :].numel()
    assert positions_read(model, lambda: caption_loss(model, batch, visual)) == len(START) + rest


def test_common_prefix_costs_no_logits() -> None:
    model, batch = small("all it has read"), collate(ALIKE, [])
    seen: list[int] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].shape[1]))
    caption_loss(model, batch, torch.randn(len(ALIKE), TOKENS, WIDTH))
    counted = (batch.labels[:, 1:] != IGNORED).any(dim=0)
    assert seen == [0, int(counted.sum())]


def test_short_common_prefix_is_read_with_each_sequence() -> None:
    model, visual = small("all it has read"), torch.randn(2, TOKENS, WIDTH)
    batch = collate([Prompt(each.ids[23:], each.labels[23:]) for each in ALIKE[:2]], [])
    assert positions_read(model, lambda: caption_loss(model, batch, visual)) == batch.ids.numel()


def test_trained_llm_gets_gradients_from_common_prefix() -> None:
    model, visual = small("all it has read").requires_grad_(True), torch.randn(len(ALIKE), TOKENS, WIDTH)
    together, alone = [], []
    for found, parts in ((together, [ALIKE]), (alone, [[each] for each in ALIKE])):
        model.zero_grad()
        shown = iter(visual.split([len(part) for part in parts]))
        for part in parts:
            caption_loss(model, collate(part, []), next(shown)).sum().backward()
        found.extend(weight.grad.clone() for weight in model.parameters())
    assert_close(together, alone)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
def test_gradient_checkpointing_gives_the_same_loss() -> None:
    model, visual, batch = small("all it has read"), torch.randn(3, TOKENS, WIDTH).requires_grad_(), collate(ALIKE, [])
    expected = caption_loss(model, batch, visual)
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    found = caption_loss(model, batch, visual)
    assert_close(found, expected)
    assert_close(*[torch.autograd.grad(losses.sum(), visual)[0] for losses in (found, expected)])


# ---- generation --------------------------------------------------------------------------------------------------


def test_greedy_generation_does_not_depend_on_the_batch(world: World, llm: LLM, prompts: list[Prompt]) -> None:
    lvlm, shown = LVLM(llm, adapter(world)), features(5)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 256}
    together = lvlm.generate(collate(prompts, shown, left=True), **options)
    assert together.shape == (len(prompts), 4)
    alone = lvlm.generate(collate(prompts[:1], shown[:1], left=True), **options)
    assert torch.equal(together[:1], alone)
    ids = list(prompts[0].ids)
    for token in alone[0].tolist():
        rows = embed(llm.model, torch.tensor([ids]), lvlm.visual_tokens(shown[0][None]))
        assert llm.model(inputs_embeds=rows).logits[0, -1].argmax().item() == token
        ids.append(token)


@pytest.mark.parametrize("family", ["all it has read", "a window shorter than the start"])
def test_common_prefix_is_read_once_for_the_same_text(family: str) -> None:
    model, visual = small(family), torch.randn(4, TOKENS, WIDTH)
    ids = [*START, *[IMAGE_ID] * TOKENS, 30]
    asked = [Prompt(ids, [IGNORED] * len(ids))] * 4
    batch = collate(asked, [], left=True)
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    alone = [
        generate(model, collate([each], [], left=True), visual[n : n + 1], **options) for n, each in enumerate(asked)
    ]
    found: list[Tensor] = []
    read = positions_read(model, lambda: found.append(generate(model, batch, visual, **options)))
    assert torch.equal(found[0], torch.cat(alone))
    written = 3 * len(asked)  # the last token is not read
    assert read == len(START) + batch.ids[:, len(START) :].numel() + written


@pytest.mark.parametrize("template", ["completion", "chat"])
def test_answers_are_one_line_except_for_chat(world: World, llm: LLM, template: Template) -> None:
    lvlm, asked = LVLM(llm, adapter(world)), ("Look: <image>\nThis is", "<image>")
    ids = [encode_question(llm.tokenizer, [Turn(question, "")], template, TOKENS) for question in asked]
    with torch.no_grad():
        visual = lvlm.visual_tokens(torch.stack(features(2)))
        answers = write_answers(llm, ids, visual, template=template, max_new_tokens=9)
    for question, image, answer in zip(ids, features(2), answers, strict=True):
        batch = collate([Prompt(question, [IGNORED] * len(question))], [image])
        written = lvlm.generate(batch, max_new_tokens=9, do_sample=False, pad_token_id=256)
        text = llm.tokenizer.decode(written[0], skip_special_tokens=True)
        assert answer == (text if template == "chat" else text.partition("\n")[0]).strip()
    assert len(set(answers)) == 2


def test_writing_ends_with_the_line_unless_it_is_a_chat(
    world: World, llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lvlm, (end,) = LVLM(llm, adapter(world)), llm.tokenizer.encode("\n", add_special_tokens=False)
    plain = llm.model.forward

    def forward(*arguments: Any, **options: Any) -> Any:
        found = plain(*arguments, **options)
        if told:  # from the second token on, the likeliest one is a line break
            found.logits[..., end] = 1e4
        return found

    monkeypatch.setattr(llm.model, "forward", forward)
    visual = lvlm.visual_tokens(torch.stack(features(1))).detach()
    for template, tokens in (("completion", 2), ("chat", 5)):
        told: list[list[str]] = []
        ids = encode_question(llm.tokenizer, [Turn("<image>", "")], template, TOKENS)
        write_answers(llm, [ids], visual, template=template, max_new_tokens=5, told=told.append)
        assert len(told) == tokens


# ---- the exported checkpoint -------------------------------------------------------------------------------------


def test_lvlm_matches_the_exported_llava_checkpoint(world: World, tmp_path: Path) -> None:
    """A linear head is transferred to LLM two and folded; both then see the same picture and text."""
    target = open_target(world.two)
    transferred, _ = transfer(adapter(world), target)
    folder = Path(without_name(world.two))
    out = export_llava(fold(transferred), world.vision, folder, tmp_path / "llava")
    picture = images(1)[0]
    with quiet_transformers():
        theirs: Any = LlavaForConditionalGeneration.from_pretrained(out.folder).eval()
        inputs = AutoProcessor.from_pretrained(out.folder)(
            text="Look: <image>\nThis is a dog.", images=picture, return_tensors="pt"
        )
    encoder, llm = open_vision(str(world.vision)), load_llm(world.two)
    lvlm = LVLM(llm, transferred)
    turns = [Turn("Look: <image>\nThis is", "a dog.")]
    each = encode_sample(llm.tokenizer, turns, "completion", encoder.tokens, longest=1000)
    batch = collate([each], [encoder(encoder.pixels(picture)[None])[0]])
    assert inputs["input_ids"][0].tolist() == [out.image_token_id if i == IMAGE_ID else i for i in each.ids]
    with torch.no_grad():
        visual = lvlm.visual_tokens(batch.images)
        ours = llm.model(inputs_embeds=embed(llm.model, batch.ids, visual)).logits
        labels = batch.labels
        found = theirs(**inputs, labels=labels)
        # of a table that grew by the image token, only the rows that the LLM has
        logits = found.logits[..., : ours.shape[-1]]
        assert_close(logits, ours, rtol=1e-4, atol=1e-4)
        missing = found.logits.logsumexp(-1) - logits.logsumexp(-1)  # the share of the image token
        shift = missing[0, :-1][labels[0, 1:] != IGNORED].sum()
        assert_close(found.loss * batch.answer_tokens - shift, lvlm(batch)[0], rtol=1e-4, atol=1e-4)
    options: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 256}
    written = theirs.generate(**inputs, **options, suppress_tokens=[out.image_token_id])
    assert torch.equal(written[:, inputs["input_ids"].shape[1] :], lvlm.generate(batch, **options))


def test_projector_gives_its_tokens_without_rows_of_the_llm(llm: LLM) -> None:
    own = MLPProjector(MLPConfig(VISION, 16, WIDTH, "one"))
    shown = torch.stack(features(2))
    assert torch.equal(LVLM(llm, own).visual_tokens(shown), own(shown))


# ---- what does not fit -------------------------------------------------------------------------------------------


def test_adapter_of_another_width_raises(llm: LLM) -> None:
    with pytest.raises(
        VocabkitError, match=r"one=.*: its embeddings have width 24, but .* visual tokens of width 32 for two"
    ):
        LVLM(llm, MLPProjector(MLPConfig(VISION, 16, 32, "two")))


def test_adapter_with_other_token_ids_raises(world: World) -> None:
    target = open_target(world.two)
    transferred, _ = transfer(adapter(world), target)
    impostor = load_llm(f"two={without_name(world.one)}")
    with pytest.raises(VocabkitError, match="its tokenizer has other ids than two has in the shared vocabulary"):
        LVLM(impostor, transferred)
    stranger = load_llm(f"three={without_name(world.one)}")
    with pytest.raises(VocabkitError, match="columns of one, two, none of three; if it is one of them"):
        LVLM(stranger, adapter(world))


def test_load_adapter_loads_every_kind_from_folder_and_file(world: World, tmp_path: Path) -> None:
    target = open_target(world.two)
    transferred, _ = transfer(adapter(world), target)
    for number, each in enumerate([adapter(world), fold(transferred), transferred]):
        for name in (f"{number}", f"{number}.pt"):
            each.save(tmp_path / name)
            found = load_adapter(tmp_path / name)
            assert type(found) is type(each)
            assert found.config == each.config
    with pytest.raises(VocabkitError, match="no such file or folder"):
        load_adapter(tmp_path / "missing")
