"""GGUF: only the rows asked for are read and dequantised, to what the gguf package makes of the whole table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from table_files import bytes_read, random_blocks, write_gguf
from tiny_models import assert_same_bits
from transformers.integrations.gguf.dequant import GGML_BLOCK
from transformers.integrations.gguf.dequant import dequantize as dequantize_of_transformers

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings

KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0]
KINDS += [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.TQ1_0, Kind.TQ2_0, Kind.MXFP4, Kind.NVFP4]
KINDS += [Kind.IQ1_S, Kind.IQ1_M, Kind.IQ2_XXS, Kind.IQ2_XS, Kind.IQ2_S, Kind.IQ3_XXS, Kind.IQ3_S]
KINDS += [Kind.IQ4_NL, Kind.IQ4_XS]
NOT_DECODED = [Kind.Q8_1, Kind.Q8_K, Kind.Q1_0, Kind.I8, Kind.I16, Kind.I32, Kind.I64, Kind.F64]
ROWS, WIDTH = 41, 512
IDS = torch.tensor([40, 0, 17, 18, 19, 3, 17])


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_quantisations_match_the_gguf_package(kind: Kind, tmp_path: Path) -> None:
    raw = random_blocks(ROWS, WIDTH, kind)
    table = open_embeddings(write_gguf(tmp_path / "model.gguf", raw, kind))
    assert (table.num_rows, table.width, table.dtype) == (ROWS, WIDTH, torch.float32)
    expected = torch.from_numpy(np.array(gguf.dequantize(raw, kind)))
    assert_same_bits(table.rows(IDS), expected[IDS])
    if kind in GGML_BLOCK:
        theirs = dequantize_of_transformers(torch.from_numpy(raw), kind).reshape(ROWS, WIDTH)
        torch.testing.assert_close(table.rows(IDS), theirs[IDS])


def test_every_quantisation_is_either_read_or_not_decoded_by_the_gguf_package() -> None:
    assert {*KINDS, *NOT_DECODED} == set(Kind)


@pytest.mark.skipif(sys.platform != "linux", reason="counts bytes with /proc")
@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q8_0, Kind.BF16, Kind.IQ4_XS], ids=lambda kind: kind.name)
def test_only_the_rows_asked_for_are_read(kind: Kind, tmp_path: Path) -> None:
    raw = random_blocks(4000, 1024, kind)
    table = open_embeddings(write_gguf(tmp_path / "model.gguf", raw, kind))
    before = bytes_read()
    table.rows(torch.arange(0, 4000, 40))
    assert 100 * raw.shape[1] <= bytes_read() - before < 100 * raw.shape[1] + 4096


@pytest.mark.parametrize(
    ("architecture", "metadata", "factor"),
    [
        ("llama", {}, 1.0),
        ("qwen2", {}, 1.0),
        ("gemma", {}, 512**0.5),
        ("gemma3", {}, 512**0.5),
        ("gemma-embedding", {}, 512**0.5),
        ("granite", {"embedding_scale": 12.0}, 1.0),  # transformers' Granite multiplies whatever comes in
        ("granitehybrid", {"embedding_scale": 12.0}, 1.0),
        ("minicpm", {"embedding_scale": 11.5}, 11.5),
        ("minicpm3", {}, 12.0),
        ("falcon-h1", {}, 1.0),  # its converter has multiplied already
    ],
)
def test_the_factor_of_each_architecture_is_applied(
    architecture: str, metadata: dict[str, float], factor: float, tmp_path: Path
) -> None:
    raw = random_blocks(ROWS, WIDTH, Kind.F16)
    table = open_embeddings(write_gguf(tmp_path / "model.gguf", raw, Kind.F16, architecture, **metadata))
    assert_same_bits(table.rows(IDS), torch.from_numpy(gguf.dequantize(raw, Kind.F16))[IDS] * torch.tensor(factor))


def test_unknown_architecture_with_a_factor_raises(tmp_path: Path) -> None:
    raw = random_blocks(ROWS, WIDTH, Kind.F16)
    with pytest.raises(VocabkitError, match="'grok' is not known and its 'embedding_scale' may multiply"):
        open_embeddings(write_gguf(tmp_path / "model.gguf", raw, Kind.F16, "grok", embedding_scale=78.4))


def test_minicpm_without_its_factor_raises(tmp_path: Path) -> None:
    raw = random_blocks(ROWS, WIDTH, Kind.F16)
    with pytest.raises(VocabkitError, match=r"no minicpm\.embedding_scale"):
        open_embeddings(write_gguf(tmp_path / "model.gguf", raw, Kind.F16, "minicpm"))


@pytest.mark.parametrize("kind", [Kind.Q8_K, Kind.F64], ids=lambda kind: kind.name)
def test_quantisation_that_gguf_does_not_decode_raises_with_its_name(kind: Kind, tmp_path: Path) -> None:
    raw = random_blocks(ROWS, WIDTH, kind)
    with pytest.raises(VocabkitError, match=rf"quantised as {kind.name}, which the gguf package \(\S+\) can't decode"):
        open_embeddings(write_gguf(tmp_path / "model.gguf", raw, kind))


def test_unknown_quantisation_raises_with_its_number(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", random_blocks(ROWS, WIDTH, Kind.F16), Kind.F16)
    content = bytearray(file.read_bytes())
    at = content.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 16
    content[at : at + 4] = (250).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(VocabkitError, match="quantised as number 250"):
        open_embeddings(file)


def test_scale_in_a_tensor_of_its_own_raises(tmp_path: Path) -> None:
    raw = random_blocks(ROWS, WIDTH, Kind.NVFP4)
    file = write_gguf(tmp_path / "model.gguf", raw, Kind.NVFP4, other="token_embd.scale")
    with pytest.raises(VocabkitError, match="its embeddings have a scale in a tensor of its own"):
        open_embeddings(file)


def test_truncated_table_raises_before_reading(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "model.gguf", random_blocks(ROWS, WIDTH, Kind.Q8_0), Kind.Q8_0)
    file.write_bytes(file.read_bytes()[:-3000])
    with pytest.raises(VocabkitError, match=r"truncated: token_embd\.weight reaches beyond its end"):
        open_embeddings(file)


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "not a GGUF"), (b"GGUF\3\0\0\0\1", "truncated"), (b"PK12", "not a GGUF")]
)
def test_non_gguf_file_raises(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(VocabkitError, match=says):
        open_embeddings(tmp_path)


def test_gguf_without_a_table_raises(tmp_path: Path) -> None:
    raw = random_blocks(ROWS, WIDTH, Kind.F16)
    with pytest.raises(VocabkitError, match=r"no token_embd\.weight in it; not an LLM"):
        open_embeddings(write_gguf(tmp_path / "model.gguf", raw, Kind.F16, name="v.patch_embd.weight"))


def test_part_of_a_split_model_without_table_raises(tmp_path: Path) -> None:
    raw: Any = random_blocks(ROWS, WIDTH, Kind.F16)
    file = write_gguf(tmp_path / "model.gguf", raw, Kind.F16, "split", name="blk.9.attn_q.weight", count=2.0)
    with pytest.raises(VocabkitError, match="in this part of a split model"):
        open_embeddings(file)


def test_rows_of_float32_are_not_rounded(tmp_path: Path) -> None:
    rows = np.ones((ROWS, WIDTH), np.float32)
    assert open_embeddings(write_gguf(tmp_path / "model.gguf", rows, Kind.F32)).rounding == 0


@pytest.mark.parametrize(
    "kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_1, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0], ids=lambda kind: kind.name
)
@pytest.mark.parametrize("outliers", [1, 8])
def test_rounding_bounds_what_quantising_changes(kind: Kind, outliers: int, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    rows[:, ::97] *= outliers
    table = open_embeddings(write_gguf(tmp_path / "model.gguf", gguf.quantize(rows, kind), kind))
    error = np.linalg.norm(table.rows(np.arange(ROWS)).numpy() - rows) / np.linalg.norm(rows)
    assert error < table.rounding < max(4 * error, 0.004)
