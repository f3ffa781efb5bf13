"""`Reader` against gguf's own."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from vocabkit.llm.gguf_reader import Reader, quick_reader


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fields of every kind, and a tensor."""
    path = tmp_path_factory.mktemp("gguf") / "fields.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "ü▁", "\n"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0, 3.25])
    writer.add_array("tokenizer.ggml.token_type", [1, 2, -3])
    writer.add_array("flags", [True, False])
    writer.add_key_value("nested", [[1, 2], [3]], gguf.GGUFValueType.ARRAY, sub_type=gguf.GGUFValueType.ARRAY)
    writer.add_uint32("llama.block_count", 2)
    writer.add_string("general.name", "tiny")
    writer.add_tensor("token_embd.weight", gguf.quants.np.ones((4, 32), "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_fields_and_tensors_are_those_of_gguf(file: Path) -> None:
    own, plain = Reader(file), gguf.GGUFReader(file)
    assert list(own.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        assert own.fields[name].types == field.types
        assert own.fields[name].contents() == field.contents()
        assert [bytes(own.fields[name].parts[i]) for i in own.fields[name].data] == [
            bytes(field.parts[i]) for i in field.data
        ]
    assert [(each.name, each.data.tolist()) for each in own.tensors] == [
        (each.name, each.data.tolist()) for each in plain.tensors
    ]


def test_any_truncation_raises_instead_of_reading_on(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    for size in range(24, len(content) - 4 * 32 * 4 - 32, 7):
        (tmp_path / "short.gguf").write_bytes(content[:size])
        with pytest.raises(Exception, match=r"."):
            Reader(tmp_path / "short.gguf")


def test_transformers_reads_a_file_once_and_gguf_is_restored(file: Path) -> None:
    plain = gguf.GGUFReader, gguf.get_tensor_name_map
    with quick_reader():
        assert gguf.GGUFReader(file) is gguf.GGUFReader(file)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == plain
