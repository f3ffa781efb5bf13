"""Draw validations of several LLMs side by side: python docs/plot.py SPLIT OUT.svg LABEL=VALIDATION.json ...

Each file is one that `vocabkit validate --out` wrote. A group of points for each LLM: the caption loss of blind and, of
each adapter, of the adapter, its words as text, and other pictures' tokens, with 95% intervals. docs/words.svg is

    python docs/plot.py combination docs/words.svg SmolLM2-135M=smollm2.json "Gemma 3 270M=gemma3.json" ...

of the validations in docs/quality.md. Needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

BLIND, ADAPTER, AS_TEXT, SHUFFLED = "blind", "words spelled out", "words as text", "other pictures' words"
STYLE = {BLIND: ("o", "#9a9a9a"), SHUFFLED: ("s", "#c98b2c"), AS_TEXT: ("^", "#4f8f5b"), ADAPTER: ("D", "#2f5fb3")}
"""Marker and colour of each condition, in the order of the legend."""


def conditions(validation: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """The estimates that are drawn, by label. Of several adapters, the first."""
    losses = validation["caption_loss"]
    name = next(iter(validation["gain"]))
    keys = {BLIND: BLIND, SHUFFLED: f"{name} shuffled", AS_TEXT: f"{name} as text", ADAPTER: name}
    return {label: losses[key] for label, key in keys.items() if key in losses}


def main(split: str, out: str, files: list[str]) -> None:
    """Draw the picture."""
    plt.rcParams |= {"svg.hashsalt": "vocabkit", "svg.fonttype": "none", "font.size": 11, "font.family": "sans-serif"}
    figure, axes = plt.subplots(figsize=(9, 4))
    labels = [file.rpartition("=")[0] for file in files]
    for place, file in enumerate(files):
        validation = json.loads(Path(file.rpartition("=")[2]).read_text("utf-8"))[split]["validation"]
        for number, (label, found) in enumerate(conditions(validation).items()):
            marker, colour = STYLE[label]
            errors = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
            axes.errorbar(
                place + 0.14 * (number - 1.5), found["value"], errors, fmt=marker, color=colour, capsize=3,
                label=label if not place else None,
            )  # fmt: skip
    axes.set_xticks(range(len(files)), labels)
    axes.set_ylabel("caption loss, nats per token")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(STYLE), frameon=False)
    figure.savefig(out, metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
