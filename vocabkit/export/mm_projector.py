"""LLaVA's own projector file, `mm_projector.bin`, for its code of training and evaluation."""

from __future__ import annotations

from pathlib import Path

from vocabkit.adapter import MLPProjector
from vocabkit.destination import check_destination
from vocabkit.fold import pad_hidden
from vocabkit.published import save_published


def export_mm_projector(projector: MLPProjector, out: Path) -> None:
    """Write a folded adapter or an MLP as `mlp2x_gelu`, whose hidden layer is as wide as the LLM: padded with zeros.

    Raises VocabkitError: the hidden layer is wider than the LLM, something else is there, or can't write here.
    """
    check_destination(out, "mm_projector")
    save_published(pad_hidden(projector, projector.config.llm_width), out)
