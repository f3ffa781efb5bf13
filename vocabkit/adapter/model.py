"""Adapters between a vision encoder and an LLM: `LangBridgeAdapter` (Eq. 2-6) and `MLPProjector`, the baseline.

Sizes: Dv width of the vision encoder, H hidden width, V rows of V_shared, D width of the LLM.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vocabkit.adapter.card import langbridge_card, projector_card, transferred_card
from vocabkit.adapter.checkpoint import Pretrained, locate, read_checkpoint
from vocabkit.adapter.config import AdapterConfig, MLPConfig
from vocabkit.adapter.description import KINDS, kind_of
from vocabkit.adapter.mixing.mix import coefficients, mix
from vocabkit.adapter.mixing.products import accumulation_dtype
from vocabkit.adapter.mixing.top import top_coefficients
from vocabkit.adapter.partners import check_shared
from vocabkit.adapter.spelled import compose, counts_of, spell_out, usual_shares, words_in_order
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import SharedVocabulary, Spellings

INITIAL_SCALE = 0.1
"""Standard deviation of a softmax head's weight after `initialise_from_embeddings`."""


class LangBridgeAdapter(Pretrained):
    """Visual tokens as sums of an LLM's embedding rows: features -> MLP (Eq. 2) -> coefficients (Eq. 3) -> mix (Eq. 4).

    `linear_1`, `linear_2` and `head` are layers 0, 2 and 3 of the published `mm_projector`; row r of `head` belongs to
    row r of `shared`. A transferred adapter also carries the embedding rows of its target (Eq. 6).
    """

    config_class = AdapterConfig
    config: AdapterConfig
    shared: SharedVocabulary
    embeddings: Tensor | None
    """(V, D) the target's embedding rows for `shared`, in the target's dtype; None if not transferred. Where visual
    tokens are spelled out, (I, D): the embeddings of all ids that spell the rows, then of the separator, if any."""
    image_newline: Tensor | None
    """(D,) the visual token that ends each row of patches of tiles; None without tiles."""
    tolerance = 0.0
    """The error of a visual token that is permitted where no gradients are wanted: see `mix`."""

    def __init__(self, config: AdapterConfig, shared: SharedVocabulary) -> None:
        """Make an adapter with torch's default initial weights and dtype; a target's embedding rows are uninitialised.

        Raises VocabkitError: see `check_shared`.
        """
        super().__init__()
        check_shared(config, shared)
        self.shared = shared
        self._make_layers(config)

    def _make_layers(self, config: AdapterConfig) -> None:
        self.config = config
        self.linear_1 = nn.Linear(config.vision_width, config.hidden_width)
        self.linear_2 = nn.Linear(config.hidden_width, config.hidden_width)
        self.head = nn.Linear(config.hidden_width, config.rows)
        width = config.output_width
        self.register_buffer("embeddings", None if width is None else torch.empty(config.shapes()["embeddings"]))
        self.register_buffer("image_newline", _newline(config))

    def __repr__(self) -> str:
        config, moved = self.config, self.config.transfer
        llm = config.llm if moved is None else f"{config.llm}, moved to {moved.target}"
        return f"LangBridgeAdapter({config.head} head over {config.rows:,} rows, {llm})"

    @property
    def llm(self) -> str:
        """The LLM that visual tokens are for: the target of the transfer, else the LLM of the training."""
        return self.config.output_llm

    @property
    def llm_width(self) -> int | None:
        """D of the visual tokens; None before a transfer, when the adapter takes the rows of any LLM."""
        return self.config.output_width

    @property
    def scale(self) -> float:
        """Factor on the visual tokens."""
        return 1.0 if self.config.transfer is None else self.config.transfer.scale

    def forward(self, features: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Visual tokens (..., D) in the dtype of the embeddings: scale * P E[V_shared].

        Args:
            features: (..., Dv) patch features, converted to the dtype of the weights. To be spelled out, (..., N, Dv)
                of all patches of each image, which gives (..., P, D).
            embeddings: (V, D): row r is the LLM's embedding of row r of `shared` (Eq. 4 with the LLM of training,
                Eq. 6 with another). By default those of the target.

        Raises VocabkitError: no embeddings, and the adapter was not transferred.
        """
        rows = self.embeddings if embeddings is None else embeddings
        if rows is None:
            raise VocabkitError(
                "the adapter was not transferred: pass the LLM's embedding rows of its shared vocabulary"
            )
        tokens = self.mixed(features, rows) if self.config.spelled is None else rows[self.spell(features)]
        return tokens if self.scale == 1.0 else tokens * self.scale

    def mixed(self, features: Tensor, rows: Tensor) -> Tensor:
        """(..., Dv) patch features and (V, D) embeddings -> (..., D), Eq. 4, without the scale."""
        return mix(
            self.hidden(features),
            self.head.weight,
            rows,
            head=self.config.head,
            bias=self.head.bias,
            temperature=self.config.temperature,
            tolerance=0.0 if torch.is_grad_enabled() else self.tolerance,
        )

    @property
    def rows(self) -> Tensor | None:
        """(V, D) the target's embeddings, also where visual tokens are spelled out; None if not transferred."""
        if self.embeddings is None or self.config.spelled is None:
            return self.embeddings
        spellings = self._spellings
        return compose(self.embeddings[: len(spellings.ids)], spellings)

    @torch.no_grad()
    def spell(self, features: Tensor) -> Tensor:
        """(..., N, Dv) -> (..., P) int64: which of `embeddings` stands at each position.

        Without gradients: only word loss trains an adapter whose visual tokens are spelled out.
        """
        spelled = self.config.spelled
        assert spelled is not None
        positions = self.config.visual_tokens(features.shape[-2])
        images = features.reshape(-1, *features.shape[-2:])  # one at a time: (N, V) coefficients are large
        coefficients = (self.coefficients(image) for image in images)
        usual = usual_shares(self._counts)
        chosen = [words_in_order(p.to(accumulation_dtype(p.dtype)), spelled, usual) for p in coefficients]
        separated = self._separator is not None
        places = np.array(
            [spell_out(rows, self._spellings, positions, separated=separated) for rows in chosen], np.int64
        )
        return torch.from_numpy(places).view(*features.shape[:-2], positions).to(features.device)

    def spelled_ids(self, features: Tensor) -> Tensor:
        """(..., N, Dv) -> (..., P) int32: the target's ids at each position, where visual tokens are spelled out."""
        separator = [] if self._separator is None else [self._separator]
        ids = np.append(self._spellings.ids, np.array(separator, np.int32))
        return torch.from_numpy(ids)[self.spell(features).cpu()]

    @property
    def _separator(self) -> int | None:
        return None if self.config.transfer is None else self.config.transfer.separator

    @property
    def _counts(self) -> Tensor:
        return counts_of(self.shared)

    @cached_property
    def _spellings(self) -> Spellings:
        return self.shared.spellings_for(self.llm)

    def hidden(self, features: Tensor) -> Tensor:
        """(..., Dv) -> (..., H), Eq. 2."""
        return _mlp(features, self.linear_1, self.linear_2)

    def coefficients(self, features: Tensor) -> Tensor:
        """(..., Dv) -> (..., V) coefficients P, Eq. 3. All V of each patch are in memory, so pass few patches."""
        return coefficients(
            self.hidden(features),
            self.head.weight,
            head=self.config.head,
            bias=self.head.bias,
            temperature=self.config.temperature,
        )

    @torch.no_grad()
    def top_coefficients(self, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(..., Dv) -> (..., k) largest coefficients, largest first, and (..., k) int64 rows of `shared`.

        Exact, in bounded memory, without gradients: see `vocabkit.adapter.mixing.top.top_coefficients`.
        """
        return top_coefficients(
            self.hidden(features),
            self.head.weight,
            k,
            head=self.config.head,
            bias=self.head.bias,
            temperature=self.config.temperature,
        )

    @torch.no_grad()
    def initialise_from_embeddings(self, embeddings: Tensor) -> None:
        """Initialise a softmax head from the training LLM's own embeddings, in place.

        The weight becomes the rows minus their mean, scaled to a standard deviation of 0.1 over all numbers; the bias
        becomes 0. A hidden state close to a token's centred embedding then starts by choosing that token. If H < D,
        rows are projected orthogonally to their H principal directions; if H > D, the further columns are 0.

        Args:
            embeddings: (V, D) of the training LLM, in row order.

        Raises VocabkitError: the wrong number of rows, rows that are all equal, or a linear head, which diverges from
        such a start.
        """
        if self.config.head != "softmax":
            raise VocabkitError("only a softmax head starts from embeddings; a linear head keeps its random start")
        if embeddings.ndim != 2 or len(embeddings) != self.config.rows:
            raise VocabkitError(f"embeddings are {tuple(embeddings.shape)}; expected {self.config.rows} rows")
        rows = embeddings.to(self.head.weight.device, torch.float64)
        rows = _fit_width(rows - rows.mean(dim=0), self.config.hidden_width)
        deviation = rows.square().mean().sqrt()
        if not (deviation > 0 and deviation.isfinite()):
            raise VocabkitError("embeddings are all equal or not finite; give the training LLM's own rows")
        self.head.weight.copy_(rows * (INITIAL_SCALE / deviation))
        self.head.bias.zero_()

    @torch.no_grad()
    def initialise_from_scores(self, weight: Tensor, bias: Tensor) -> None:
        """Initialise a softmax head whose scores are a linear function of the features, in place.

        The MLP hands the features on unchanged in the first Dv of the H hidden units. The other units keep their random
        start, for training on top; the head does not read them yet.

        Args:
            weight, bias: (V, Dv) and (V,): the scores of a patch x are weight x + bias.

        Raises VocabkitError: a linear head, or H < 2 Dv.
        """
        width = self.config.vision_width
        if self.config.head != "softmax" or self.config.hidden_width < 2 * width:
            raise VocabkitError(
                f"only a softmax head with a `hidden_width` of at least {2 * width}, twice the width of the features, "
                "starts from scores"
            )
        _map_linearly(self.linear_1, self.linear_2, torch.eye(width), torch.zeros(width))
        self.head.weight.zero_()[:, :width].copy_(weight)
        self.head.bias.copy_(bias)

    def generate_model_card(self) -> str:
        """The README.md of a checkpoint folder."""
        return langbridge_card(self.config, self.shared) if self.embeddings is None else transferred_card(self.config)


class MLPProjector(Pretrained):
    """LLaVA's two-layer projector: features -> linear_1 -> GELU -> linear_2 -> visual tokens of one LLM."""

    config_class = MLPConfig
    config: MLPConfig
    image_newline: Tensor | None
    """(D,) the visual token that ends each row of patches of tiles; None without tiles."""

    def __init__(self, config: MLPConfig, shared: None = None) -> None:
        """Make a projector with torch's default initial weights and dtype. It has no shared vocabulary."""
        super().__init__()
        self.config = config
        self.shared = None
        self.linear_1 = nn.Linear(config.vision_width, config.hidden_width)
        self.linear_2 = nn.Linear(config.hidden_width, config.llm_width)
        self.register_buffer("image_newline", _newline(config))

    def __repr__(self) -> str:
        return f"MLPProjector({self.config.vision_width:,} to {self.config.llm_width:,}, {self.config.llm})"

    @property
    def llm(self) -> str:
        """The LLM that visual tokens are for."""
        return self.config.llm

    @property
    def llm_width(self) -> int:
        """D of the visual tokens."""
        return self.config.llm_width

    def forward(self, features: Tensor) -> Tensor:
        """(..., Dv) patch features -> (..., D) visual tokens."""
        return _mlp(features, self.linear_1, self.linear_2)

    @torch.no_grad()
    def initialise_from_map(self, weight: Tensor, bias: Tensor) -> None:
        """Make the visual tokens a linear function of the features, in place: x weight + bias.

        Args:
            weight, bias: (Dv, D) and (D,).

        Raises VocabkitError: H < 2 Dv.
        """
        if self.config.hidden_width < 2 * self.config.vision_width:
            raise VocabkitError(
                f"a linear map needs a `hidden_width` of {2 * self.config.vision_width}, twice the features'"
            )
        _map_linearly(self.linear_1, self.linear_2, weight.T, bias)

    def generate_model_card(self) -> str:
        """The README.md of a checkpoint folder."""
        return projector_card(self.config)


Adapter = LangBridgeAdapter | MLPProjector


def load_adapter(source: str | Path, **options: Any) -> Adapter:
    """Load an adapter of either class from a checkpoint folder, a `.pt` file or a hub repository (owner/name).

    Args:
        options: for hub ids, as for `Pretrained.from_pretrained`.

    Raises VocabkitError: not found, damaged, or parts that do not belong together.
    """
    path = locate(source, **options)
    checkpoint = read_checkpoint(path)
    found = checkpoint.config.get("adapter_type")
    if not isinstance(found, str) or found not in KINDS:
        raise VocabkitError(f"{path}: holds {kind_of(found)}; this vocabkit knows {', '.join(KINDS.values())}")
    of_kind: type[Adapter] = MLPProjector if found == "mlp" else LangBridgeAdapter
    return of_kind.from_checkpoint(path, checkpoint)


def _newline(config: AdapterConfig | MLPConfig) -> Tensor | None:
    return None if config.newline_width is None else torch.empty(config.newline_width)


def _map_linearly(linear_1: nn.Linear, linear_2: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Let the first outputs of an MLP be weight x + bias, as GELU(x) - GELU(-x) = x; weight: (outputs, Dv)."""
    outputs, width = weight.shape
    one = torch.eye(width)
    linear_1.weight[: 2 * width].copy_(torch.cat([one, -one]))
    linear_1.bias[: 2 * width].zero_()
    linear_2.weight[:outputs].zero_()[:, : 2 * width].copy_(torch.cat([weight, -weight], dim=1))
    linear_2.bias[:outputs].copy_(bias)


def _mlp(features: Tensor, linear_1: nn.Linear, linear_2: nn.Linear) -> Tensor:
    if features.shape[-1:] != (linear_1.in_features,):
        raise VocabkitError(f"features are {tuple(features.shape)}; expected (..., {linear_1.in_features})")
    features = features.to(linear_1.weight.dtype)
    hidden: Tensor = linear_2(functional.gelu(linear_1(features)))  # (..., Dv) -> (..., H) -> (..., H)
    return hidden


def _fit_width(rows: Tensor, width: int) -> Tensor:
    """(V, D) -> (V, width): the principal directions if narrower, zeros appended if wider."""
    if width >= rows.shape[1]:
        return functional.pad(rows, (0, width - rows.shape[1]))
    _, directions = torch.linalg.eigh(rows.T @ rows)  # (D, D), ascending
    kept = directions[:, -width:]
    strongest = kept.gather(0, kept.abs().argmax(dim=0, keepdim=True))  # eigh may return either sign: fix it
    projected: Tensor = rows @ (kept * strongest.sign())  # (V, D) @ (D, width) -> (V, width)
    return projected
