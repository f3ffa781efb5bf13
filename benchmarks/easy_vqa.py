"""easy-VQA (Victor Zhou, MIT; PyPI easy-vqa 1.0): 13 answers to questions about a shape and its colour.

    python benchmarks/easy_vqa.py data FOLDER OUT   # captions.json, train.json and test.json in LLaVA's format
    python benchmarks/easy_vqa.py score OUT/test.json --features FEATURES --llm LLM NAME=ADAPTER ... --out RESULT.json

FOLDER is `data` of the package, and that of the images. `captions.json` names shape and colour of each training
picture, as its questions do. The answer to a test question is that of the 13 whose first token is the most likely.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
ANSWERS = (*SHAPES, *COLOURS, "yes", "no")
BATCH = 20
EXAMPLES = """
Image: teal, circle
Question: what color is the circle?
Answer: teal

Image: black, triangle
Question: is there a red shape?
Answer: no

Image: gray, rectangle
Question: what shape is in the image?
Answer: rectangle

Image: brown, circle
Question: does the image contain a circle?
Answer: yes

Image: yellow, triangle
Question: is there not a triangle in the image?
Answer: no

Image: <image>
Question: {question}
Answer:"""
"""Shows an LLM that nobody trained what is asked. Adapters that an LLM trained have seen it in their training."""


def write_data(folder: Path, out: Path) -> None:
    """Write the three files; `folder` is the package's `data`."""
    out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        asked = json.loads((folder / split / "questions.json").read_text())
        records = [_record(split, picture, EXAMPLES.format(question=q), answer) for q, answer, picture in asked]
        (out / f"{split}.json").write_text(json.dumps(records))
        if split == "train":
            (out / "captions.json").write_text(json.dumps(_captions(asked)))


def _record(split: str, picture: int, question: str, answer: str) -> dict[str, object]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"image": f"{split}/images/{picture}.png", "conversations": turns}


def _captions(asked: list[tuple[str, str, int]]) -> list[dict[str, object]]:
    """A caption of each picture whose shape and colour its questions tell."""
    told: dict[int, set[str]] = {}
    for question, answer, picture in asked:
        words = set(re.findall(r"\w+", question))
        if answer not in ("yes", "no") or (answer == "yes") != bool(
            words & {"not", "no"}
        ):  # what the question says is true
            told.setdefault(picture, set()).update(words | {answer})
    found = []
    for picture, words in sorted(told.items()):
        shape, colour = words & set(SHAPES), words & set(COLOURS)
        if len(shape) == len(colour) == 1:
            found.append(_record("train", picture, "<image>", f"{colour.pop()} {shape.pop()}"))
    return found


def score(data: Path, features: Path, llm_source: str, adapters: list[str], limit: int, out: Path) -> None:
    """Write the share of right answers for each adapter, and for blind, by kind of question."""
    import torch

    from vocabkit.adapter.model import load_adapter
    from vocabkit.data.llava import read_llava
    from vocabkit.evaluate.losses import HeldOut, shown_by
    from vocabkit.evaluate.validate import blind_tokens
    from vocabkit.llm.load import load_llm
    from vocabkit.llm.lvlm import LVLM, collate, generate
    from vocabkit.llm.prompts import IGNORED, Prompt, Turn, encode_question, encode_sample
    from vocabkit.vision.features import open_features

    torch.set_grad_enabled(False)
    samples = list(read_llava(data))
    samples = [samples[at] for at in sorted(np.random.default_rng(0).permutation(len(samples))[:limit])]
    right = np.array([ANSWERS.index(sample.turns[0].answer) for sample in samples])
    yes_no = right >= len(SHAPES) + len(COLOURS)
    llm = load_llm(llm_source, torch.float32)

    def first_token(answer: str) -> int:
        labels = encode_sample(llm.tokenizer, [Turn(EXAMPLES, answer)], "completion", 1, longest=2048).labels
        return next(label for label in labels if label != IGNORED)

    answers = [first_token(answer) for answer in ANSWERS]
    assert len(set(answers)) == len(ANSWERS), "answers begin with the same token"
    held = HeldOut((), [sample.images[0].key for sample in samples], open_features(features))
    shown = {"blind": blind_tokens(llm, held)}
    for text in adapters:
        name, _, file = text.partition("=")
        shown[name] = shown_by(LVLM(llm, load_adapter(file)), held)
    shares: dict[str, dict[str, object]] = {}
    for name, visual in shown.items():
        tokens = visual(torch.arange(len(samples)))
        asked = [
            encode_question(llm.tokenizer, s.turns, "completion", len(t)) for s, t in zip(samples, tokens, strict=True)
        ]
        scores = np.zeros((len(samples), len(ANSWERS)))
        for same in _of_one_length(asked):  # so that the LLM reads the examples once
            batch = collate([Prompt(asked[n], [IGNORED] * len(asked[n])) for n in same], [], left=True)
            given = generate(
                llm.model, batch, torch.cat([tokens[n] for n in same])[None], max_new_tokens=1, do_sample=False,
                return_dict_in_generate=True, output_logits=True, pad_token_id=llm.tokenizer.pad_token_id,
            )  # fmt: skip
            scores[same] = given.logits[0].float()[:, answers].numpy()  # (B, V) -> (B, 13)
        hits = scores.argmax(axis=1) == right
        colour_or_shape = scores[:, :-2].argmax(axis=1) == right
        two = (scores[:, -2] > scores[:, -1]) == (right == len(ANSWERS) - 2)  # yes above no
        shares[name] = {
            "all": _share(hits), "yes or no": _share(hits[yes_no]), "shape or colour": _share(hits[~yes_no]),
            "yes or no, of these two": _share(two[yes_no]), "of the eleven others": _share(colour_or_shape[~yes_no]),
        }  # fmt: skip
        print(name, json.dumps(shares[name]), flush=True)
    out.write_text(json.dumps({"llm": llm_source, "questions": len(samples), "shares": shares}, indent=1) + "\n")


def _of_one_length(prompts: list[list[int]]) -> list[list[int]]:
    """The numbers of prompts of the same length, at most `BATCH` together."""
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(number)
    return [same[start : start + BATCH] for same in by_length.values() for start in range(0, len(same), BATCH)]


def _share(hits: np.ndarray) -> dict[str, float]:
    """Share with its 95% interval (Wilson)."""
    n, z = len(hits), 1.96
    p = float(hits.mean())
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n),
    )
    return {"value": round(p, 3), "low": round(middle - half, 3), "high": round(middle + half, 3)}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    data = commands.add_parser("data")
    data.add_argument("folder", type=Path)
    data.add_argument("out", type=Path)
    scores = commands.add_parser("score")
    scores.add_argument("data", type=Path)
    scores.add_argument("adapters", nargs="+", metavar="NAME=ADAPTER")
    scores.add_argument("--features", type=Path, required=True)
    scores.add_argument("--llm", required=True)
    scores.add_argument("--limit", type=int, default=300)
    scores.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.command == "data":
        write_data(given.folder, given.out)
    else:
        score(given.data, given.features, given.llm, given.adapters, given.limit, given.out)


if __name__ == "__main__":
    main()
