"""A real LLM with fewer layers: its tokenizer, widths and weights, quick to load."""

from __future__ import annotations

from pathlib import Path

import gguf


def write_short_gguf(source: Path, out: Path, *, layers: int) -> None:
    """Copy the GGUF `source` to `out` with its first layers alone."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(out, architecture)
    counted = f"{architecture}.block_count"
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", counted):
            continue  # which the writer adds itself
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, inner[-1] if inner else None)
    writer.add_block_count(layers)
    for tensor in reader.tensors:
        block = tensor.name.split(".")[1] if tensor.name.startswith("blk.") else 0
        if int(block) < layers:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
