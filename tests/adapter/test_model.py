"""LangBridgeAdapter and MLPProjector: Eq. 2 to 4, the start from embeddings, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from small_adapters import HIDDEN, ROWS, VISION, WIDTH, langbridge, normal, projector, shared_vocabulary
from torch import Tensor

from vocabkit.adapter.config import AdapterConfig, MLPConfig, Spelled, Transfer
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.errors import VocabkitError


def by_hand(adapter: LangBridgeAdapter, features: Tensor) -> Tensor:
    """(N, V) coefficients by Eq. 2 and 3, in float64, patch by patch and number by number."""
    w = {name: tensor.double().tolist() for name, tensor in adapter.state_dict().items()}

    def layer(name: str, x: list[float]) -> list[float]:
        rows = zip(w[f"{name}.weight"], w[f"{name}.bias"], strict=True)
        return [sum(a * b for a, b in zip(row, x, strict=True)) + bias for row, bias in rows]

    patches = []
    for patch in features.double().tolist():
        activated = [x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in layer("linear_1", patch)]
        scores = layer("head", layer("linear_2", activated))
        if adapter.config.head == "softmax":
            powers = [math.exp(s / adapter.config.temperature) for s in scores]
            scores = [p / sum(powers) for p in powers]
        patches.append(scores)
    return torch.tensor(patches, dtype=torch.float64)


@pytest.mark.parametrize(("head", "options"), [("linear", {}), ("softmax", {"temperature": 1.7})])
def test_visual_tokens_follow_the_equations(head: Any, options: dict[str, float]) -> None:
    adapter = langbridge(head, **options)
    features, embeddings = normal(3, VISION), normal(ROWS, WIDTH, seed=2)
    expected = by_hand(adapter, features)
    torch.testing.assert_close(adapter.coefficients(features).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        adapter(features, embeddings).double(), expected @ embeddings.double(), rtol=1e-5, atol=1e-4
    )


def test_leading_dimensions_are_kept() -> None:
    features, embeddings = normal(2, 3, 4, VISION), normal(ROWS, WIDTH)
    assert langbridge("softmax")(features, embeddings).shape == (2, 3, 4, WIDTH)
    assert projector()(features).shape == (2, 3, 4, WIDTH)


def test_projector_is_two_layers_with_gelu() -> None:
    module, features = projector(), normal(3, VISION)
    w = {name: tensor.double() for name, tensor in module.state_dict().items()}
    x = features.double() @ w["linear_1.weight"].T + w["linear_1.bias"]
    x = x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))
    expected = x @ w["linear_2.weight"].T + w["linear_2.bias"]
    torch.testing.assert_close(module(features).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("head", ["linear", "softmax"])
def test_row_order_of_shared_vocabulary_does_not_matter(head: Any) -> None:
    adapter, features, embeddings = langbridge(head), normal(4, VISION), normal(ROWS, WIDTH, seed=2)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    reordered = shared_vocabulary().select(order.numpy())
    config = AdapterConfig.of(reordered, llm="qwen2", vision_width=VISION, hidden_width=HIDDEN, head=head)
    other = LangBridgeAdapter(config, reordered)
    state = adapter.state_dict()
    state |= {name: state[name][order] for name in ("head.weight", "head.bias")}
    other.load_state_dict(state)
    torch.testing.assert_close(other(features, embeddings[order]), adapter(features, embeddings), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "softmax"])
def test_training_reaches_every_parameter(head: Any) -> None:
    adapter = langbridge(head)
    adapter(normal(3, VISION), normal(ROWS, WIDTH)).square().sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


# ---- the start from the training LLM's embeddings ----------------------------------------------------------------


def test_softmax_head_starts_at_centred_scaled_embeddings() -> None:
    adapter, embeddings = langbridge("softmax"), normal(ROWS, HIDDEN) * 3 + 1
    adapter.initialise_from_embeddings(embeddings)
    weight = adapter.head.weight.detach()
    torch.testing.assert_close(weight.mean(dim=0), torch.zeros(HIDDEN), atol=1e-6, rtol=0)
    torch.testing.assert_close(weight.square().mean().sqrt(), torch.tensor(0.1))
    centred = embeddings - embeddings.mean(dim=0)
    torch.testing.assert_close(weight / weight.norm(), centred / centred.norm())
    assert not adapter.head.bias.any()


def test_hidden_state_at_an_embedding_chooses_its_token() -> None:
    adapter = langbridge("softmax")
    embeddings = torch.nn.functional.normalize(normal(ROWS, HIDDEN))
    embeddings = embeddings - embeddings.mean(dim=0)
    adapter.initialise_from_embeddings(embeddings)
    scores = embeddings @ adapter.head.weight.detach().T  # (V, H) @ (H, V) -> (V, V)
    assert (scores.argmax(dim=1) == torch.arange(ROWS)).float().mean() > 0.5


def test_wider_embeddings_are_projected_orthogonally_and_narrower_ones_padded() -> None:
    adapter = langbridge("softmax")
    plane = normal(ROWS, HIDDEN)  # lies in HIDDEN of the 9 dimensions, in a basis of its own
    basis = torch.linalg.qr(normal(9, HIDDEN, seed=5)).Q
    adapter.initialise_from_embeddings(plane @ basis.T)
    weight = adapter.head.weight.detach().clone()
    centred = plane - plane.mean(dim=0)
    expected = centred @ centred.T / centred.square().sum()
    torch.testing.assert_close(weight @ weight.T / weight.square().sum(), expected, atol=1e-5, rtol=1e-4)
    adapter.initialise_from_embeddings(plane @ basis.T)
    assert torch.equal(adapter.head.weight.detach(), weight)

    adapter.initialise_from_embeddings(normal(ROWS, 3))
    assert adapter.head.weight[:, :3].any()
    assert not adapter.head.weight[:, 3:].any()


@pytest.mark.parametrize(
    ("head", "embeddings", "words"),
    [
        ("linear", normal(ROWS, HIDDEN), "only a softmax head"),
        ("softmax", normal(ROWS - 1, HIDDEN), "expected 64 rows"),
        ("softmax", torch.ones(ROWS, HIDDEN), "all equal"),
        ("softmax", torch.full((ROWS, HIDDEN), torch.nan), "not finite"),
    ],
)
def test_invalid_initial_embeddings_raise(head: Any, embeddings: Tensor, words: str) -> None:
    with pytest.raises(VocabkitError, match=words):
        langbridge(head).initialise_from_embeddings(embeddings)


# ---- the start from scores ---------------------------------------------------------------------------------------


def test_softmax_head_starts_at_linear_scores_of_the_features() -> None:
    adapter = langbridge("softmax", hidden=2 * VISION + 3)
    features, weight, bias = normal(7, VISION), normal(ROWS, VISION, seed=2), normal(ROWS, seed=3)
    adapter.initialise_from_scores(weight, bias)
    torch.testing.assert_close(adapter.coefficients(features), (features @ weight.T + bias).softmax(dim=1))
    adapter.coefficients(features).square().sum().backward()
    assert adapter.head.weight.grad is not None
    assert adapter.head.weight.grad[:, -3:].any()  # free units are trained as well


@pytest.mark.parametrize(("head", "hidden"), [("softmax", 2 * VISION - 1), ("linear", 2 * VISION)])
def test_start_from_scores_needs_a_softmax_head_that_is_wide_enough(head: Any, hidden: int) -> None:
    with pytest.raises(VocabkitError, match=f"`hidden_width` of at least {2 * VISION}"):
        langbridge(head, hidden=hidden).initialise_from_scores(normal(ROWS, VISION), normal(ROWS))


# ---- parts that do not belong together ---------------------------------------------------------------------------


def test_other_shared_vocabulary_raises() -> None:
    config = langbridge().config
    other = shared_vocabulary().select(range(ROWS - 1, -1, -1))
    with pytest.raises(VocabkitError, match="trained on"):
        LangBridgeAdapter(config, other)


def test_llm_outside_the_shared_vocabulary_raises() -> None:
    config = AdapterConfig.of(shared_vocabulary(), llm="gemma3", vision_width=VISION, hidden_width=HIDDEN)
    with pytest.raises(VocabkitError, match="it holds qwen2, llama3"):
        LangBridgeAdapter(config, shared_vocabulary())


@pytest.mark.parametrize(
    "change",
    [
        {"vision_width": 0},
        {"hidden_width": -1},
        {"head": "hard"},
        {"temperature": 2.0},
        {"head": "softmax", "temperature": 0.0},
        {"head": "softmax", "temperature": math.nan},
        {"head": "softmax", "temperature": math.inf},
    ],
)
def test_invalid_config_raises(change: dict[str, Any]) -> None:
    values = {"llm": "qwen2", "vision_width": VISION, "hidden_width": HIDDEN, **change}
    with pytest.raises(VocabkitError):
        AdapterConfig.of(shared_vocabulary(), **values)


def test_invalid_projector_config_raises() -> None:
    with pytest.raises(VocabkitError, match="llm_width 0"):
        MLPConfig(vision_width=1, hidden_width=1, llm_width=0, llm="qwen2")


def test_mismatched_features_or_embeddings_raise() -> None:
    with pytest.raises(VocabkitError, match=r"features are \(3, 8\); expected \(..., 7\)"):
        langbridge()(normal(3, VISION + 1), normal(ROWS, WIDTH))
    with pytest.raises(VocabkitError, match=r"embeddings \(63, 6\)"):
        langbridge()(normal(3, VISION), normal(ROWS - 1, WIDTH))
    with pytest.raises(VocabkitError, match=r"features are \(\)"):
        projector()(torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_are_converted_to_the_dtype_of_the_weights(dtype: torch.dtype) -> None:
    features, embeddings = normal(3, VISION, dtype=dtype), normal(ROWS, WIDTH)
    for found, expected in (
        (langbridge()(features, embeddings), langbridge()(features.float(), embeddings)),
        (projector()(features), projector()(features.float())),
    ):
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_repr_fits_on_a_line() -> None:
    assert repr(langbridge("softmax")).startswith(f"LangBridgeAdapter(softmax head over {ROWS} rows, ")
    assert repr(projector()).startswith(f"MLPProjector({VISION} to {WIDTH}, ")
    assert "\n" not in repr(langbridge("linear")) + repr(projector())


@pytest.mark.parametrize(
    ("field", "value"), [("threshold", 1.0), ("threshold", -0.1), ("order", "size"), ("positions", 0)]
)
def test_invalid_settings_of_spelled_visual_tokens_raise(field: str, value: float | str) -> None:
    with pytest.raises(VocabkitError, match=f"`{field}`"):
        Spelled(**{field: value})


def test_coefficients_of_a_linear_head_are_not_spelled_out() -> None:
    moved = Transfer("llm", WIDTH, "sha256:0", embeddings="llm", missing="error", spelled=Spelled())
    assert dataclasses.replace(langbridge("softmax").config, transfer=moved).spelled == Spelled()
    with pytest.raises(VocabkitError, match="a linear head's coefficients are no shares of words; choose mix"):
        dataclasses.replace(langbridge("linear").config, transfer=moved)
