"""Pages of small reports with hostile names and tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from vocabularies import text_vocabulary

from vocabkit.report.html.page import Origin
from vocabkit.shared.overlap import overlap
from vocabkit.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from playwright.sync_api import Page

DESKTOP, PHONE = (1200, 900), (390, 844)
Open = Callable[..., "Page"]
"""Opens a file, of a `size` and a `scheme` of colours."""
HOSTILE = [
    b"<script>alert(1)</script>", b"</script><script>alert(2)</script>", b"<img src=x onerror=alert(3)>", b"&amp;",
    b"{{", b" a", b"a ", b"  ", b"a b", b"\n", b"\t\r", b"\x00", b"\x1b[31m", b"\\n", b"\\", b"'", b'"', b"\"'",
    b"\xff", b"\xe4\xb8", b"\xed\xa0\x80",
    *map(str.encode, ("\u200b", "\u202eevil", "\ufeff", "\u0301", "\ufe0f", "\U000e0100", "\u00a0")),
    *map(str.encode, ("עברית", " العربية", "中", "😀", "é")),
]  # fmt: skip
"""Tokens that try to be something else."""
SPECIAL_ROW = 20
"""Of the head: it stands for a role."""
NAMES = ("<b>one</b>", "two & three")
ORIGIN = Origin("vocabkit command '<b>of</b> this page'", {"<b>source</b>": "sha256:0123"})


def overlap_file(folder: Path) -> Path:
    """Two tokenizers of which one has every hostile token, with aliases, and the other every second."""
    plain = [f"word{number}".encode() for number in range(200)]
    first = text_vocabulary(NAMES[0], *HOSTILE, *plain, b" a", notes=("a <b>note</b>",))
    second = text_vocabulary(NAMES[1], *plain[::-1], *HOSTILE[::2], b"only here")
    return written(folder / "overlap.html", overlap_page_of([first, second]))


def overlap_page_of(pair: list[Vocabulary]) -> str:
    """The page of two vocabularies."""
    from vocabkit.report.html.overlap import overlap_page, string_matching, token_table

    return overlap_page(overlap(pair), token_table(pair), string_matching(pair), ORIGIN)


def transfer_file(folder: Path) -> Path:
    """A transfer with rows composed and dropped, its proof, and a validation."""
    from vocabkit.evaluate.answers import Answers, Share
    from vocabkit.evaluate.losses import Estimate
    from vocabkit.evaluate.validate import Result, Validation
    from vocabkit.report.html.transfer import transfer_page
    from vocabkit.transfer.check import Check, Proof
    from vocabkit.transfer.plan import MissingToken, Norms, Preflight

    preflight = Preflight(
        head="softmax", source=NAMES[0], target=NAMES[1], embeddings="a/<b>.safetensors", rows=100, found=80,
        spelled=15, composed=15, dropped=5, mass_found=0.97, mass_spelled=0.02, mass_dropped=0.01,
        examples=tuple(MissingToken(row, HOSTILE[row], 0.001, (b"<i>", b" x") if row % 2 else ()) for row in range(8)),
        norms=Norms(1.0, 0.5, 1.2, 3.4), scale=0.5, vision_width=1280, hidden_width=576, width=640, dtype="bfloat16",
        parameters=4_100_000, bytes=8_200_000, folds=False, folding="a softmax is not linear",
    )  # fmt: skip
    checks = (Check("random features, in float64", 64, 2e-15, 1e-9), Check("random features, as run", 64, 4e-2, 4e-3))
    losses = {"blind": 2.3, "transferred": 1.4, "transferred shuffled": 2.5, "native": 1.3, "<b>mine</b>": 1.9}
    validation = Validation(
        llm=NAMES[1],
        samples=300,
        left_out=2,
        visual_tokens=49,
        template="plain",
        caption_loss={name: Estimate(value, value - 0.05, value + 0.07) for name, value in losses.items()},
        retention={"transferred": Estimate(0.9, 0.85, 0.95), "transferred shuffled": Estimate(-0.2, -0.3, -0.1)},
        of_mlp={},
    )
    shares = [Share(value, value - 0.1, value + 0.1, 60) for value in (0.4, 0.8, 0.7, 0.5, 0.8)]
    answers = {"transferred": Answers(*shares, None)}
    page = transfer_page(
        Proof(NAMES[1], 95, checks, ()), preflight, ORIGIN, {"held <b>out</b>": Result(validation, answers)}
    )
    return written(folder / "transfer.html", page)


def interpretation_file(
    folder: Path, *, images: int = 2, side: int = 4, llms: Sequence[str] = NAMES, checkpoints: int = 3
) -> Path:
    """Readings of `images` pictures in which the first checkpoint says one thing and the last another.

    Patch p at checkpoint c is nearest to the tokens p + c, p + c + 1, ...; its largest coefficients are those of the
    rows p + c + 1, p + c + 2, ....
    """
    from PIL import Image

    from vocabkit.interpret.results import Development, ImageInfo, Interpretation, Reading, Token
    from vocabkit.report.html.interpretation import interpretation_page, picture_uri

    patches, top = side * side, 5
    tokens = [*HOSTILE, *(f" word{number}".encode() for number in range(patches))]
    noise = np.random.default_rng(0)
    infos, readings, development = [], [], []
    seen = [(0.0, 0.0, 1.0, 1.0), (0.1, 0.0, 0.9, 1.0), (0.0, -0.2, 1.0, 1.2)]
    for number in range(images):
        path = folder / f"{number}.png"
        Image.fromarray(noise.integers(0, 255, (300, 400, 3), np.uint8)).save(path)
        caption = "an <b>owl</b>" if number else None
        wrote = None if number else "an <i>owl</i>"
        info = ImageInfo(f"{number}<b>.png", path, (400, 300), seen[number % 3], caption, ("owl",), ("owl",), wrote)
        infos.append(info)
    labels = tuple(f"step {step + 1}00" for step in range(checkpoints))
    for llm in llms:
        for step, label in enumerate(labels):
            ids = (np.arange(patches)[:, None] + np.arange(top) + step).astype(np.int32) % len(tokens)
            cosines = np.broadcast_to(np.linspace(0.9, 0.1, top), (patches, top)).astype(np.float32)
            shares = np.broadcast_to(2.0 ** -np.arange(1, top + 1), (patches, top)).astype(np.float32)
            rows = (ids + 1) % len(tokens)
            readings += [
                Reading(
                    number, llm, label, ids, cosines, ids[:, 0] % 2 == 0, rows, shares, shares[:, 0],
                    ids[0], cosines[0], rows[0], shares[0],
                )
                for number in range(images)
            ]  # fmt: skip
            development.append(Development(llm, label, 0.3 + step / 10, step / 10, step / 9, 5.0 - step))
    found = Interpretation(
        adapter="<b>adapter</b>",
        head="softmax",
        vision="clip",
        grid=(side, side),
        top=top,
        llms=tuple(llms),
        vocabularies=dict.fromkeys(llms, 1000),
        checkpoints=labels,
        images=tuple(infos),
        broken=("a<b>.png: no such file",),
        readings=tuple(readings),
        development=tuple(development),
        fingerprints={"adapter": "sha256:4567"},
        tokens={llm: {i: Token(token, "text") for i, token in enumerate(tokens)} for llm in llms},
        rows={llm: dict(enumerate(tokens)) | {SPECIAL_ROW: b""} for llm in llms},
    )
    pictures = [picture_uri(info) for info in infos]
    page = interpretation_page(found, pictures, ORIGIN, writer="<b>writer</b>")
    return written(folder / "interpretation.html", page)


def written(path: Path, page: str) -> Path:
    """The file of a page."""
    path.write_text(page, "utf-8")
    return path
