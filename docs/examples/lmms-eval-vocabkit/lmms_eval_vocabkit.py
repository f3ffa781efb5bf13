"""A model of lmms-eval: a vision model, any adapter of vocabkit, and an LLM.

    python -m lmms_eval --model vocabkit --model_args adapter=ADAPTER,llm=LLM,vision=VISION --tasks mme --batch_size 8

Stock Llava checkpoints hold only linear heads and distilled projectors; this evaluates a softmax head unchanged.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest

from vocabkit.adapter.model import load_adapter
from vocabkit.data.pictures import as_rgb
from vocabkit.data.samples import PLACEHOLDER, Turn
from vocabkit.llm.load import load_llm
from vocabkit.llm.lvlm import LVLM, collate
from vocabkit.llm.prompts import Prompt, encode_question, parse_template
from vocabkit.vision.encoder import encoder_of


def manifest() -> ModelManifest:
    """What the entry point `lmms_eval.models` gives."""
    return ModelManifest("vocabkit", simple_class_path="lmms_eval_vocabkit.Vocabkit")


class Vocabkit(lmms):
    """Answers questions greedily, `batch_size` at a time."""

    is_simple = True

    def __init__(
        self,
        adapter: str,
        llm: str,
        vision: str | None = None,
        template: str = "chat",
        pool: str | None = None,
        device: str | None = None,
        batch_size: int = 1,
        **_: Any,
    ) -> None:
        """Load the three parts.

        Args:
            adapter: folder, `.pt` or hub id: trained with `llm`, moved to it, or an MLP projector.
            template: plain, completion or chat, as in training.
            vision: the vision model, if it has moved or the adapter does not record it.
            pool: ROWSxCOLUMNS that patches are pooled to, if the adapter does not record it.
        """
        super().__init__()
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        connector = load_adapter(adapter).to(self._device)
        grid = None if pool is None else tuple(map(int, pool.split("x")))
        self._encoder = encoder_of(connector, vision, pool=grid, device=self._device)
        self._template = parse_template(template)
        loaded = load_llm(llm)
        loaded.model.to(self._device)
        self._tokenizer = loaded.tokenizer
        self._lvlm = LVLM(loaded, connector).to(self._device)
        self._batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer to each request."""
        answers: list[str] = []
        for settings, alike in groupby([request.args for request in requests], key=lambda args: args[1]):
            questions = list(alike)
            for start in range(0, len(questions), self._batch_size):
                answers += self._answers(questions[start : start + self._batch_size], settings)
        return answers

    @torch.no_grad()
    def _answers(self, questions: list[tuple[Any, ...]], settings: dict[str, Any]) -> list[str]:
        """Of a batch of requests with the same settings."""
        prompts, pictures = [], []
        for question, _, doc_to_visual, doc_id, task, split in questions:
            shown = [as_rgb(picture) for picture in doc_to_visual(self.task_dict[task][split][doc_id])]
            if shown and PLACEHOLDER not in question:
                question = f"{PLACEHOLDER * len(shown)}\n{question}"
            ids = encode_question(self._tokenizer, [Turn(question, "")], self._template, self._encoder.tokens)
            prompts.append(Prompt(ids, [0] * len(ids)))
            pictures += [self._encoder.pixels(picture) for picture in shown]
        features = list(self._encoder(torch.stack(pictures).to(self._device))) if pictures else []
        batch = collate(prompts, features, width=self._encoder.width, left=True).to(self._device)
        written = self._lvlm.generate(
            batch,
            max_new_tokens=settings.get("max_new_tokens", 64),
            do_sample=False,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        until = settings.get("until", [])
        texts: list[str] = self._tokenizer.batch_decode(written, skip_special_tokens=True)
        for stop in [until] if isinstance(until, str) else until:
            texts = [text.partition(stop)[0] if stop else text for text in texts]
        return [text.strip() for text in texts]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered."""
        raise NotImplementedError("tasks of several rounds are not supported")

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered."""
        raise NotImplementedError("tasks that choose by likelihood are not supported; `vocabkit validate` has some")
