"""What the page computes: a picture in the words of an adapter, and answers of LLMs to which the adapter has moved.

Sizes: N patches of a picture, in rows and columns; Dv width of the vision encoder; k words kept of each patch.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vocabkit.adapter.config import Spelled
from vocabkit.adapter.model import LangBridgeAdapter, load_adapter
from vocabkit.adapter.words import READING, image_words
from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import PLACEHOLDER, Picture, Turn
from vocabkit.errors import VocabkitError, warn
from vocabkit.files.progress import Progress, no_progress
from vocabkit.infer.infer import InferOptions, with_prompt
from vocabkit.interpret.interpret import seen_part
from vocabkit.interpret.nearest import coefficients_of, read_head
from vocabkit.llm.devices import open_device
from vocabkit.llm.load import LLM, load_llm
from vocabkit.llm.lvlm import LVLM, write_answers
from vocabkit.llm.prompts import Template, encode_question
from vocabkit.report.html.interpretation import Frame, frame, small_jpeg
from vocabkit.report.layout import spelled
from vocabkit.tokenizer.catalog import without_name
from vocabkit.transfer.check import Proof, check_transfer
from vocabkit.transfer.plan import Preflight
from vocabkit.transfer.transfer import Target, open_target, transfer
from vocabkit.vision.encoder import VisionEncoder, encoder_of

TOP = 8
"""k."""
MAPPED = 12
"""Words of the whole picture, each with a heat map."""


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as an adapter sees it."""

    features: Tensor
    """(1, N, Dv), with class tokens if the adapter takes them."""
    picture: str
    """A small JPEG, as a data: URI."""
    frame: Frame
    patches: list[list[tuple[str, float]]]
    """The largest k coefficients of each patch: word and share, or any number for a linear head."""
    mapped: list[tuple[str, float, list[float]]]
    """Words with the most mass in the picture: word, mean share, and share in each patch. Empty for a linear head."""
    words: list[str]
    """The picture as text, see `vocabkit.adapter.words`. Empty for a linear head."""


def see(adapter: LangBridgeAdapter, encoder: VisionEncoder, content: bytes) -> Seen:
    """Look at a picture, the content of a file. Raises BrokenImage: not a picture, damaged, or too large."""
    image = load_image(Picture("this file", content))
    try:
        pixels = encoder.pixels(image)
    except VocabkitError as error:
        raise BrokenImage(f"this picture {error}") from error
    features = encoder(pixels[None])  # (1, 3, H, W) -> (1, N, Dv)
    patches = features[0, -encoder.grid[0] * encoder.grid[1] :]  # without class and register tokens
    rows = adapter.config.rows
    read = read_head(adapter, patches, min(TOP, rows), min(MAPPED, rows))

    def word(row: int) -> str:
        return spelled(adapter.shared[row])

    mapped = []
    if read.image_rows is not None and read.image_mass is not None:
        shares = coefficients_of(adapter, patches, read.image_rows).T.tolist()  # (m, N)
        mapped = list(zip(map(word, read.image_rows.tolist()), read.image_mass.tolist(), shares, strict=True))
    placed = frame(image.size, seen_part(encoder.pixels, image.size))
    return Seen(
        features,
        small_jpeg(image),
        placed,
        [
            list(zip(map(word, best), values, strict=True))
            for best, values in zip(read.rows.tolist(), read.coefficients.tolist(), strict=True)
        ],
        mapped,
        [each.text for each in image_words(adapter, patches)] if mapped else [],
    )


def question_of(asked: str, adapter: LangBridgeAdapter, *, chats: bool) -> tuple[str, Template]:
    """Return the prompt, with a placeholder for the picture, and its template.

    Args:
        asked: what the user typed; empty for the adapter's own prompt, asked as `infer --captions` does.
        chats: whether the LLM has a chat template.
    """
    if not asked:
        own = with_prompt(InferOptions(), adapter.config.prompt)
        assert own.question is not None
        return own.question, own.template  # type: ignore[return-value]
    shown = READING if adapter.config.spelled is not None else PLACEHOLDER
    asked = asked.replace(PLACEHOLDER, "the picture")
    return (f"{shown}\n{asked}", "chat") if chats else (f"{shown}\nQuestion: {asked}\nAnswer:", "completion")


@dataclass(frozen=True, eq=False)
class Reader:
    """An LLM that reads what the adapter, which has moved to it, shows."""

    llm: LLM
    lvlm: LVLM
    adapter: LangBridgeAdapter
    target: Target
    moved: Preflight | None
    """The summary of the transfer; None if the adapter had moved before."""

    @torch.inference_mode()
    def answer(
        self, seen: Seen, asked: str, told: Callable[[str], None], max_new_tokens: int = 64
    ) -> tuple[str, str, int]:
        """Answer a question, see `question_of`.

        Args:
            told: called with the answer so far; what it raises ends the writing.

        Returns: the answer; the prompt, with words in place of spelled visual tokens; the number of visual tokens.
        """
        tokenizer = self.llm.tokenizer
        question, template = question_of(asked, self.adapter, chats=tokenizer.chat_template is not None)
        features = seen.features.to(self.llm.model.device)
        visual = self.lvlm.visual_tokens(features)  # (1, N, Dv) -> (1, P, D)
        ids = encode_question(tokenizer, [Turn(question, "")], template, visual.shape[1])
        (text,) = write_answers(
            self.llm, [ids], visual, template=template, max_new_tokens=max_new_tokens, told=lambda all: told(all[0])
        )
        if self.adapter.config.spelled is not None:
            shown = tokenizer.decode(self.adapter.spelled_ids(features)[0].tolist())
            question = question.replace(PLACEHOLDER, shown.strip())
        return text, question, visual.shape[1]


State = Literal["waiting", "loading", "ready", "failed"]


@dataclass(eq=False)
class Partner:
    """An LLM by name, and what has become of it."""

    source: str
    name: str
    state: State = "waiting"
    problem: str = ""
    """Why it failed."""
    began: float = 0.0
    ended: float | None = None
    """Times of `time.monotonic`."""
    reader: Reader | None = None

    @property
    def seconds(self) -> float:
        """How long it has been loading, or took."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0


@dataclass(frozen=True, eq=False)
class Talk:
    """An adapter with its vision encoder, and LLMs that are loaded later."""

    source: str
    adapter: LangBridgeAdapter
    encoder: VisionEncoder
    partners: Sequence[Partner]
    device: torch.device
    other_weights: bool = False
    max_new_tokens: int = 64
    fingerprints: dict[str, str] = field(default_factory=dict)

    def load(self, progress: Progress = no_progress) -> None:
        """Load the LLMs, one after another. One that can't be loaded keeps its problem, and warns of it."""
        for partner in self.partners:
            progress(f"loading {partner.name}", 0, None)
            partner.began, partner.state = time.monotonic(), "loading"
            try:
                partner.reader = self._open(partner.source)
                partner.name = partner.reader.llm.vocabulary.name
                partner.state = "ready"
            except Exception as error:  # a page of one LLM less is better than none
                partner.problem = str(error) if isinstance(error, VocabkitError) else f"{type(error).__name__}: {error}"
                partner.state = "failed"
                warn(f"{partner.name} is not loaded: {partner.problem}")
            partner.ended = time.monotonic()

    def _open(self, source: str) -> Reader:
        adapter, moved = self.adapter, None
        target = open_target(source)
        if adapter.embeddings is None:
            made = Spelled() if adapter.shared.of_words else None
            adapter, moved = transfer(adapter, target, missing="drop", visual_tokens=made)
        llm = load_llm(source, torch.bfloat16 if self.device.type == "cuda" else torch.float32)
        lvlm = LVLM(llm, adapter, other_weights=self.other_weights).eval()
        return Reader(llm, lvlm.to(self.device), adapter, target, moved)

    def prove(self, partner: Partner) -> Proof | None:
        """Check the transfer to an LLM; None if there was none."""
        reader = partner.reader
        if reader is None or reader.moved is None:
            return None
        moved = reader.adapter if self.device.type == "cpu" else copy.deepcopy(reader.adapter).cpu()
        return check_transfer(moved, self.adapter, reader.target)


def open_talk(
    adapter: str | Path,
    llms: Sequence[str],
    *,
    vision: str | None = None,
    other_weights: bool = False,
    max_new_tokens: int = 64,
    device: str = "auto",
) -> Talk:
    """Open an adapter and its vision encoder; the LLMs are left to `Talk.load`.

    Args:
        adapter: a checkpoint folder, a `.pt` file or a hub id; not an MLP projector, which has no words.
        llms: each as for `load_llm`.
        vision: as for `encoder_of`.

    Raises VocabkitError: not found, damaged, parts that do not fit together, or a name given twice.
    """
    loaded = load_adapter(adapter)
    if not isinstance(loaded, LangBridgeAdapter):
        raise VocabkitError(f"{adapter}: an MLP projector's visual tokens say no words; ask by `infer --captions`")
    partners = [Partner(llm, name) for llm, name in zip(llms, _names(llms), strict=True)]
    encoder = encoder_of(loaded, vision)
    loaded.requires_grad_(False)
    fingerprints = {"adapter": loaded.fingerprint(), "shared vocabulary": loaded.shared.fingerprint}
    fingerprints["vision encoder"] = encoder.info["fingerprint"]
    return Talk(
        str(adapter), loaded, encoder, partners, open_device(device), other_weights, max_new_tokens, fingerprints
    )


def _names(llms: Sequence[str]) -> Iterator[str]:
    """What to call LLMs until they are loaded. Raises VocabkitError: one is given twice."""
    told = set[str]()
    for llm in llms:
        source = without_name(llm)
        name = Path(source).name if source == llm else llm.removesuffix(f"={source}")
        if name in told:
            raise VocabkitError(f"`llm` {llm}: {name} is already given; rename one with NAME=SOURCE")
        told.add(name)
        yield name


def plain(seen: Seen) -> dict[str, Any]:
    """Return what a page needs of it, with rounded numbers."""

    def rounded(values: Sequence[float]) -> list[float]:
        return [float(f"{value:.4g}") for value in values]

    return {
        "picture": seen.picture,
        "frame": vars(seen.frame),
        "patches": [[[word for word, _ in patch], rounded([value for _, value in patch])] for patch in seen.patches],
        "mapped": [[word, *rounded([mass]), rounded(shares)] for word, mass, shares in seen.mapped],
        "words": seen.words,
    }
