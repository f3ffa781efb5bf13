"""Files that are damaged, hostile or something else: one clear line, before anything is read of them."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from table_files import NAME, index_folder, random_table, raw_safetensors, safetensors_folder, write_config

from vocabkit.errors import VocabkitError
from vocabkit.llm.embeddings import open_embeddings

WEIGHT = random_table()
ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


def refusal(source: Path) -> str:
    """The one line with which `source` is refused."""
    with pytest.raises(VocabkitError) as caught:
        open_embeddings(source)
    message = str(caught.value)
    assert "\n" not in message
    assert source.name in message
    return message


def test_truncated_file_raises(tmp_path: Path) -> None:
    folder = safetensors_folder(tmp_path, {NAME: WEIGHT})
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert "not a safetensors file, or truncated" in refusal(file)


def test_file_that_shrinks_while_open_raises(tmp_path: Path) -> None:
    folder = safetensors_folder(tmp_path, {NAME: WEIGHT})
    table = open_embeddings(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(VocabkitError, match="ends before row 49; it is truncated"):
        table.rows([49, 0])


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 5000,
        {NAME: 3},
        {NAME: {**ENTRY, "dtype": "F33"}},
        {NAME: {**ENTRY, "data_offsets": [0, 8]}},
        {NAME: {**ENTRY, "data_offsets": [-16, 0]}},
        {NAME: {**ENTRY, "data_offsets": [8, 24]}},
        {NAME: {**ENTRY, "data_offsets": [0, 2**62]}},
        {NAME: {**ENTRY, "shape": [2**40, 2**40]}},
        {NAME: ENTRY, "overlapping": ENTRY},
    ],
    ids=str,
)
def test_header_that_does_not_fit_the_file_raises(header: Any, tmp_path: Path) -> None:
    file = raw_safetensors(tmp_path, header, bytes(16)) / "model.safetensors"
    assert "safetensors" in refusal(file)


def test_shortest_file_holds_no_table(tmp_path: Path) -> None:
    file = raw_safetensors(tmp_path, {}, b"") / "model.safetensors"
    assert "not a safetensors file" not in refusal(file)


@pytest.mark.parametrize("length", [0, 10**6, 2**63])
def test_wrong_header_length_raises(length: int, tmp_path: Path) -> None:
    file = raw_safetensors(tmp_path, {NAME: ENTRY}, bytes(16), length) / "model.safetensors"
    assert "not a safetensors file" in refusal(file)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (torch.ones(4), "has shape '[4]', expected a matrix"),
        (torch.ones(2, 2, 2), "has shape '[2, 2, 2]', expected a matrix"),
        (torch.ones(0, 4), "has shape '[0, 4]', expected a matrix"),
        (torch.ones(4, 4, dtype=torch.int8), "is stored as 'I8', expected F16, BF16, F32, F64; take weights that"),
        (torch.ones(4, 4).to(torch.float8_e4m3fn), "is stored as 'F8_E4M3', expected F16"),
    ],
)
def test_table_other_than_a_float_matrix_raises(weight: torch.Tensor, says: str, tmp_path: Path) -> None:
    assert says in refusal(safetensors_folder(tmp_path, {NAME: weight}) / "model.safetensors")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({NAME: torch.ones(4)}, "has shape (4,), expected a matrix"),
        ({NAME: torch.ones(4, 4, dtype=torch.int8)}, "is stored as torch.int8"),
        ({NAME: torch.ones(4, 4).to_sparse()}, "no dense tensor"),
        ({NAME: [1.0]}, "no dense tensor"),
        ({NAME: torch.ones(4, 4, device="meta")}, "no dense tensor"),
        ([torch.ones(4, 4)], "holds no tensors by name"),
        ({}, "holds no tensors by name"),
        ({3: torch.ones(4, 4)}, "holds no tensors by name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_torch_file_without_a_float_matrix_raises(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, write_config(tmp_path) / "pytorch_model.bin")
    assert says in refusal(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({NAME: torch.empty(0)}, "is empty: saved under DeepSpeed ZeRO-3"),
        (
            {NAME: torch.ones(9, 1).byte(), f"{NAME}.quant_map": torch.ones(16)},
            "is quantised to 4 bits by bitsandbytes",
        ),
        ({NAME: torch.ones(9, 1).byte()}, "is quantised to 4 bits by bitsandbytes"),
        (
            {NAME: torch.ones(4, 4).char(), "model.embed_tokens.SCB": torch.ones(4)},
            "is quantised to 8 bits by bitsandbytes",
        ),
    ],
    ids=["empty", "4 bits", "4 bits alone", "8 bits"],
)
def test_table_without_its_numbers_raises_as_what_it_is(
    tensors: dict[str, torch.Tensor], says: str, suffix: str, tmp_path: Path
) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in tensors.items()}
    file = write_config(tmp_path) / f"weights.{suffix}"
    (torch.save if suffix == "bin" else save_file)(wrapped, file)
    assert f"'module.{NAME}' {says}" in refusal(file)


class Explosive:
    """Leaves a file where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_malicious_pickle_is_not_executed(how: str, tmp_path: Path) -> None:
    file, trace = write_config(tmp_path / "model") / "pytorch_model.bin", tmp_path / "executed"
    if how == "torch.save":
        torch.save({NAME: Explosive(trace)}, file)
    else:
        file.write_bytes(pickle.dumps({NAME: Explosive(trace)}))
    message = refusal(file)
    assert "only" in message or "all that is read" in message or "not a file of torch.save" in message
    assert not trace.exists()


def test_truncated_torch_file_raises(tmp_path: Path) -> None:
    file = write_config(tmp_path) / "pytorch_model.bin"
    torch.save({NAME: WEIGHT}, file)
    file.write_bytes(file.read_bytes()[:-100])
    assert "truncated" in refusal(file)


def test_other_zip_file_raises(tmp_path: Path) -> None:
    file = write_config(tmp_path) / "pytorch_model.bin"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", "b")
    refusal(file)


@pytest.mark.parametrize(
    "shard",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "sub/model.safetensors",
        "..",
        "",
        ".",
        "..\\x.safetensors",
        "C:x.safetensors",
    ],
)
def test_index_that_points_outside_its_folder_raises(shard: str, tmp_path: Path) -> None:
    safetensors_folder(tmp_path / "sub", {NAME: WEIGHT})
    message = refusal(index_folder(tmp_path, {NAME: shard}) / "model.safetensors.index.json")
    assert "not a file beside it; don't trust this model" in message


@pytest.mark.parametrize("weight_map", [None, [], {NAME: 3}, {3: "a"}])
def test_index_of_another_form_raises(weight_map: Any, tmp_path: Path) -> None:
    refusal(index_folder(tmp_path, weight_map) / "model.safetensors.index.json")


def test_missing_shard_raises(tmp_path: Path) -> None:
    folder = index_folder(tmp_path, {NAME: "model-00007-of-00009.safetensors"})
    with pytest.raises(VocabkitError, match=r"model-00007-of-00009\.safetensors: no such file"):
        open_embeddings(folder)


def test_shard_without_the_indexed_tensor_raises(tmp_path: Path) -> None:
    safetensors_folder(tmp_path, {"other": WEIGHT})
    index_folder(tmp_path, {NAME: "model.safetensors"})
    with pytest.raises(VocabkitError, match="is not in it, though the index says so"):
        open_embeddings(tmp_path / "model.safetensors.index.json")


def test_weights_without_a_config_raise(tmp_path: Path) -> None:
    file = safetensors_folder(tmp_path, {NAME: WEIGHT}) / "model.safetensors"
    (tmp_path / "config.json").unlink()
    with pytest.raises(VocabkitError, match=r"config\.json: no such file; weights are read together with"):
        open_embeddings(file)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not valid JSON"),
        ("[]", "not a model's config.json"),
        ("{}", "no model_type"),
        ('{"model_type": 3}', "no model_type"),
        ('{"model_type": "llama", "dtype": "int4"}', "dtype 'int4' is not one of float16"),
        ('{"model_type": "llama", "torch_dtype": ["float16"]}', "is not one of float16"),
        ('{"model_type": "llama", "torch_dtype": {"": "float16"}}', "is not one of float16"),
    ],
)
def test_incomplete_config_raises(content: str, says: str, tmp_path: Path) -> None:
    safetensors_folder(tmp_path, {NAME: WEIGHT})
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(VocabkitError, match=says.replace("(", r"\(")):
        open_embeddings(tmp_path)


def test_folder_without_weights_raises(tmp_path: Path) -> None:
    assert "not a model folder: none of model.safetensors" in refusal(write_config(tmp_path))


def test_folder_with_several_weights_files_raises(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    assert "2 weights files; name one of them" in refusal(tmp_path)


def test_file_of_another_kind_raises(tmp_path: Path) -> None:
    file = write_config(tmp_path) / "model.onnx"
    file.touch()
    assert "not a weights file; expected .safetensors" in refusal(file)


@pytest.mark.parametrize(
    "source", ["nothing", "no/such.safetensors", "a/b/c", Path("no/model"), "no/such.gguf", "x/y@"]
)
def test_missing_source_raises(source: str | Path) -> None:
    with pytest.raises(VocabkitError, match="not found: not a folder, a weights file or a hub id"):
        open_embeddings(source)
