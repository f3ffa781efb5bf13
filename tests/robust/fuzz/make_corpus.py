"""Writes corpus/, a few sound files per reader cut down from real ones: python tests/robust/fuzz/make_corpus.py.

Arrow files come without their checksum, as another program would write them: with it, whatever is changed is found
before Arrow looks at the file.
"""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "support")]

import gguf
import numpy as np
import pyarrow as pa
import torch
from arrow_files import rewritten
from fuzz.readers import CORPUS, SHARD
from safetensors.torch import save
from tokenizer_files import added_token, gguf_file, gguf_tokenizer, protobuf, real_file, tekken_json, unigram_json

from vocabkit.adapter.config import AdapterConfig, MLPConfig
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.shared.align import align
from vocabkit.tokenizer import sentencepiece, snapshot
from vocabkit.tokenizer.gguf import read_header
from vocabkit.tokenizer.read import read

PIECES = 40


def tokenizers() -> Iterator[tuple[str, bytes]]:
    """tokenizer.json: the first pieces of DeepSeek's and MiniLM's, and a Unigram."""
    content = json.loads(real_file("deepseek").read_text("utf-8"))
    own = list(content["model"]["vocab"])[3 : 3 + 300]
    merges = [
        merge for merge in content["model"]["merges"] if set(merge.split(" ")) | {merge.replace(" ", "")} <= set(own)
    ]
    content["model"] |= {"vocab": {piece: i for i, piece in enumerate(own)}, "merges": merges[:PIECES]}
    content["added_tokens"] = [added_token(300, "<s>", special=True), added_token(301, "<think>")]
    yield "byte-level", json.dumps(content, ensure_ascii=False).encode()
    content = json.loads(real_file("minilm").read_text("utf-8"))
    words = ["[UNK]", "[CLS]", "[SEP]", *list(content["model"]["vocab"])[1996 : 1996 + PIECES], "##s", "##ing"]
    content["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    content |= {"added_tokens": [added_token(1, "[CLS]", special=True)], "padding": None, "post_processor": None}
    yield "wordpiece", json.dumps(content).encode()
    yield "unigram", json.dumps(unigram_json(["<unk>", "▁", "a", "▁cat", "é"], unk_id=0)).encode()


def ranks() -> Iterator[tuple[str, bytes]]:
    """Rank files: the first lines of Qwen's and LLaMA3's."""
    for name in ("qwen", "llama3"):
        yield name, b"".join(real_file(name).read_bytes().splitlines(keepends=True)[:300])


def models() -> Iterator[tuple[str, bytes]]:
    """SentencePiece: the first pieces of a BPE with byte fallback, and of a Unigram."""
    for name in ("mistral-v1", "botchan-unigram"):
        content, kept = real_file(name).read_bytes(), 300 if name == "mistral-v1" else PIECES
        fields = list(sentencepiece._fields(content))
        pieces = [(number, value) for number, value in fields if number == 1][:kept]
        trainer = [(2, b"".join(_field(n, v) for n, v in sentencepiece._fields(value)))
                   for number, value in fields if number == 2]  # fmt: skip
        normalizer = [(3, protobuf((1, b"identity"), (3, 1), (4, 1)))]
        yield name, protobuf(*pieces, *trainer, *normalizer)
    yield "charsmap", sentencepiece_with_charsmap()


def _field(number: int, value: Any) -> bytes:
    return protobuf((number, value)) if isinstance(value, int) or len(value) != 4 else b""


def sentencepiece_with_charsmap() -> bytes:
    """A Unigram with a character map of its own: an empty trie, no replacements."""
    pieces = [(1, protobuf((1, piece.encode()), (2, -float(i)))) for i, piece in enumerate(["<unk>", "▁a", "b"])]
    trie = np.zeros(256, "<u4").tobytes()
    charsmap = len(trie).to_bytes(4, "little") + trie + b"a\0"
    return protobuf(*pieces, (2, protobuf((3, 1))), (3, protobuf((1, b"x"), (2, charsmap))))


def tekkens() -> Iterator[tuple[str, bytes]]:
    """tekken.json: the first ranks, which are the bytes."""
    real = json.loads(real_file("tekken-240911").read_text("utf-8"))
    content = tekken_json([bytes([byte]) for byte in range(256)] + [b"the", b" a"])
    content["config"] |= {"pattern": real["config"]["pattern"]}
    yield "mistral", json.dumps(content).encode()


def ggufs() -> Iterator[tuple[str, bytes]]:
    """GGUF headers: the first tokens of SmolLM2 and Gemma3."""
    for name in ("smollm2", "gemma3"):
        metadata, _ = read_header(real_file(name))
        tokens = metadata["tokenizer.ggml.tokens"][:300]
        types = metadata["tokenizer.ggml.token_type"][:300].tolist()
        model = metadata["tokenizer.ggml.model"]
        more: dict[str, Any] = {"bos_token_id": 1, "unknown_token_id": 0}
        if model == "gpt2":
            known = set(tokens)
            merges = [m for m in metadata["tokenizer.ggml.merges"] if {*m.split(" "), m.replace(" ", "")} <= known]
            more |= {"pre": metadata["tokenizer.ggml.pre"], "merges": merges[:PIECES]}
        else:
            more |= {"scores": list(range(300)), "add_space_prefix": False}
        yield (
            name,
            gguf_file(
                gguf_tokenizer(list(zip(tokens, types, strict=True)), model, **more), {"token_embd.weight": [8, 300]}
            ),
        )


def gguf_weights() -> Iterator[tuple[str, bytes]]:
    """GGUF files with an embedding table of three rows."""
    rows = np.linspace(-1, 1, 96, dtype=np.float32).reshape(3, 32)
    for kind in (gguf.GGMLQuantizationType.Q8_0, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.F16):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.gguf"
            writer = gguf.GGUFWriter(file, "llama")
            writer.add_tensor("token_embd.weight", gguf.quants.quantize(rows, kind), raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            yield kind.name, file.read_bytes()


def arrows(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """(reader, name, content): snapshots and shared vocabularies, packed and not."""
    cut = [read(CORPUS / "tokenizer/byte-level", "one"), read(CORPUS / "tiktoken/qwen", "two")]
    snapshot.write(folder / "snapshot.arrow", cut[0], snapshot.Provenance("tokenizer.json", "0" * 64))
    align(cut).select(range(PIECES)).save(folder / "shared.arrow")
    for reader in ("snapshot", "shared"):
        content = (folder / f"{reader}.arrow").read_bytes()
        for codec in (None, "zstd", "lz4"):
            yield reader, codec or "plain", rewritten(content, compression=codec)
        yield reader, "batches", rewritten(content, rows_per_batch=16)


def captions() -> Iterator[tuple[str, bytes]]:
    """LLaVA's format, as an array and as lines, packed and not."""
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "an owl é 😀"}]
    records = [
        {"id": "1", "image": "birds/owl.jpg", "conversations": turns},
        {"id": 2, "image": ["a.png"], "conversations": turns, "extra": {"a": [1.5, None, True]}},
        {"id": "3", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hi"}]},
    ]
    text = json.dumps(records, indent=1).encode()
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in records).encode()
    yield "array", text
    yield "lines", lines
    yield "gzip", gzip.compress(text, mtime=0)
    yield "zstd", pa.Codec("zstd").compress(lines, asbytes=True)


def maps() -> Iterator[tuple[str, bytes]]:
    """Index maps in both layouts."""
    yield "object", b'{"\xc4\xa0the": 279, ",": 11, "\\u0120a": 264}'
    yield "ranked", b'[{",": [11, 1]}, {"a": [264, 0]}]'


def recipes() -> Iterator[tuple[str, bytes]]:
    """The recipes of the documentation."""
    for file in sorted((CORPUS.parent.parent.parent / "docs/examples/recipes").glob("*.toml")):
        yield file.stem, file.read_bytes()


def adapters(folder: Path) -> Iterator[tuple[str, bytes]]:
    """adapter.pt of each sort, over a shared vocabulary of a few rows."""
    cut = [read(CORPUS / "tokenizer/byte-level", "one"), read(CORPUS / "tiktoken/qwen", "two")]
    shared = align(cut).select(range(8))
    for head in ("linear", "softmax"):
        config = AdapterConfig.of(shared, llm="one", vision_width=4, hidden_width=4, head=head)
        LangBridgeAdapter(config, shared).save(folder / f"{head}.pt")
        yield head, (folder / f"{head}.pt").read_bytes()
    MLPProjector(MLPConfig(vision_width=4, hidden_width=4, llm_width=6, llm="one")).save(folder / "mlp.pt")
    yield "mlp", (folder / "mlp.pt").read_bytes()


def torch_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Weights by torch.save."""
    names = [f"model.mm_projector.{layer}.{part}" for layer in (0, 2, 3) for part in ("weight", "bias")]
    torch.save({name: torch.ones(2, 3)[0 if "bias" in name else slice(None)] for name in names}, folder / "weights.bin")
    yield "mm-projector", (folder / "weights.bin").read_bytes()


def features() -> Iterator[tuple[str, str, bytes]]:
    """(reader, name, content): cached features of one picture."""
    encoder = {"name": "clip", "layer": -2, "keep_cls": False, "pool": None, "grid": [1, 2], "tokens": 2, "width": 3,
               "fingerprint": "0", "precision": "float32", "dtype": "float16"}  # fmt: skip
    header = {"format": "vocabkit-features/1", "encoder": encoder, "rows": ["0"], "keys": {"a.png": "0"}}
    index = {"format": "vocabkit-features/1", "encoder": encoder, "shards": [SHARD], "keys": {"a.png": [0, 0]}}
    yield "features", "clip", json.dumps(index).encode()
    tensors = {"features": torch.ones(1, 2, 3, dtype=torch.float16)}
    yield "feature-shard", "clip", save(tensors, {"vocabkit": json.dumps(header)})
    yield "safetensors", "features", save(tensors)
    yield "safetensors", "weights", save({"model.embed_tokens.weight": torch.ones(3, 4, dtype=torch.bfloat16)})


def corpus(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """(reader, name, content). Some are made of those before, which must be written by then."""
    simple = {"tokenizer": tokenizers, "tiktoken": ranks, "sentencepiece": models, "tekken": tekkens, "gguf": ggufs,
              "gguf-weights": gguf_weights, "llava": captions, "index-map": maps, "recipe": recipes}  # fmt: skip
    for reader, make in simple.items():
        yield from ((reader, name, content) for name, content in make())
    yield "shard-index", "two", b'{"metadata": {"total_size": 9}, "weight_map": {"a.weight": "model-1.safetensors"}}'
    yield from arrows(folder)
    yield from (("adapter", name, content) for name, content in adapters(folder))
    yield from (("torch", name, content) for name, content in torch_files(folder))
    yield from features()


if __name__ == "__main__":
    torch.manual_seed(0)
    shutil.rmtree(CORPUS, ignore_errors=True)
    with tempfile.TemporaryDirectory() as temporary:
        for reader, name, content in corpus(Path(temporary)):
            (CORPUS / reader).mkdir(parents=True, exist_ok=True)
            (CORPUS / reader / name).write_bytes(content)
