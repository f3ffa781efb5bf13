"""Pictures per second of `vocabkit infer`, compared with its models alone: does data loading slow it down?

On a GPU: a vision transformer of the shape of CLIP ViT-L/14 at 336 pixels (576 patches) and a softmax adapter over all
tokens that Qwen2 and LLaMA3 share, hidden width 1,024, for embeddings of width 4,096, in bfloat16. On a CPU:
EfficientNet-Lite0 and 2,048 rows, in float32. Weights are random: they do not change the time. Pictures are JPEG files
of 640 x 480 pixels.

The peer has its pixels in memory, on the device, and writes nothing. Ours decodes, computes and writes; the goal is
0.95 of the peer's pictures per second. On a CPU, decoding takes its time from the same cores: there, the ratio of
processor times, which is printed too, is the most that can be had. Needs about 5 GB of disk on a GPU.
Run: python benchmarks/inference.py [--pictures N] [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from claims import Claim, report
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vocabkit.adapter.config import AdapterConfig, Transfer
from vocabkit.adapter.model import LangBridgeAdapter
from vocabkit.data.pictures import load_image
from vocabkit.data.samples import Picture
from vocabkit.files.memory import keep_freed_memory
from vocabkit.infer.infer import InferOptions, Models, Profile, Stopwatch, make_step, run
from vocabkit.infer.result_files import ResultFolder
from vocabkit.llm.devices import open_device
from vocabkit.report.as_json import write_json
from vocabkit.shared.align import align
from vocabkit.tokenizer.catalog import resolve
from vocabkit.vision.encoder import VisionEncoder, open_vision

BATCH, TOP, FILES, LIMIT = 32, 16, 64, 0.95


@dataclass(frozen=True)
class Case:
    """One kind of results."""

    wanted: str
    ours: float
    """Pictures a second, from files to files."""
    peer: float
    """Pictures a second of the models alone."""
    ratio: float
    processor: float
    """Processor time of the peer, divided by ours."""
    profile: Profile


def main() -> None:
    """Print, for each kind of results: ours, the peer, the ratio, the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, help="[1024 on a GPU, 32 on a CPU]")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--claims", type=Path, help="also write the claims to this file")
    words = parser.parse_args()
    keep_freed_memory()  # as the command does
    device = open_device()
    on_gpu = device.type == "cuda"
    count = words.pictures or (1024 if on_gpu else 32)
    name = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        models = make_models(work, device)
        pictures = make_pictures(work / "pictures", count)
        cases = [measure(work, models, pictures, "visual tokens", InferOptions(batch=BATCH))]
        cases.append(measure(work, models, pictures, f"top {TOP}", InferOptions(top=TOP, batch=BATCH)))
    about = {
        "device": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "dtype": str(models.dtype).removeprefix("torch."),
        "pictures": count,
        "patches": models.encoder.tokens,
        "rows": models.connector.config.rows,
    }
    if words.json:
        write_json(words.json, {**about, "limit": LIMIT, "cases": cases})
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    for case in cases:
        shares = ", ".join(f"{stage} {share:.1%}" for stage, share in case.profile.shares.items())
        busy = "" if case.profile.busy is None else f"; GPU busy {case.profile.busy:.1%}"
        print(f"{case.wanted}: {shares}{busy}; ratio of processor times {case.processor:.2f}")
    report(
        [Claim(f"infer, {c.wanted}, beside models alone", c.ours, c.peer, "/s", LIMIT, True) for c in cases],
        words.claims,
    )


def measure(work: Path, models: Models, pictures: list[Picture], name: str, wanted: InferOptions) -> Case:
    """Time the models alone, then a whole run."""
    step = make_step(models, wanted, Stopwatch(models.device))
    some = [models.encoder.pixels(load_image(picture)) for picture in pictures[:BATCH]]
    pixels = torch.stack(some).to(models.device)
    batches = max(len(pictures) // BATCH, 1)

    def alone() -> float:
        begin = time.perf_counter()
        for _ in range(batches):
            pending = step(pixels)
        pending.results([])
        return time.perf_counter() - begin

    step(pixels).results([])  # kernels are chosen and memory is reserved
    begin = time.process_time()
    peer = batches * BATCH / alone()
    peer_time = (time.process_time() - begin) / (batches * BATCH)
    size = models.encoder.tokens * (4096 * models.dtype.itemsize if wanted.writes_visual_tokens else 16 * TOP)
    adapter = models.connector
    settings = {"visual_tokens": wanted.writes_visual_tokens}
    folder = ResultFolder(work / name, settings, picture_bytes=size, shared=adapter.shared, llm=adapter.llm)
    begin = time.process_time()
    report = run(models, wanted, pictures, folder)
    processor = peer_time * len(pictures) / (time.process_time() - begin)
    return Case(name, report.per_second, peer, report.per_second / peer, processor, report.profile)


def make_models(work: Path, device: torch.device) -> Models:
    """Encoder and adapter, on `device`."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    shared = align([resolve("qwen2").vocabulary, resolve("llama3").vocabulary])
    if not on_gpu:
        shared = shared.select(range(2048))
    encoder = make_encoder(work / "vision", device, dtype) if on_gpu else open_vision("efficientnet-lite0")
    hidden, width = (1024, 4096) if on_gpu else (576, 640)
    inner = AdapterConfig.of(shared, llm="qwen2", vision_width=encoder.width, hidden_width=hidden, head="softmax")
    moved = Transfer("llama3", width, shared.fingerprint, "random", "error")
    config = dataclasses.replace(inner, transfer=moved)
    adapter = LangBridgeAdapter(config, shared).eval().requires_grad_(False)
    adapter.embeddings.normal_()
    return Models(encoder, adapter, None, None, device, dtype).on_device()


def make_encoder(
    folder: Path, device: torch.device, dtype: torch.dtype, *, width: int = 1024, layers: int = 24, heads: int = 16
) -> VisionEncoder:
    """A vision transformer of 576 patches with random weights."""
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads,
        image_size=336, patch_size=14,
    )  # fmt: skip
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"height": 336, "width": 336}
    CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=size).save_pretrained(folder)
    return open_vision(str(folder), device=device, dtype=dtype)


def make_pictures(folder: Path, count: int) -> list[Picture]:
    """Write a few files and name them by `count` keys, so that each is decoded several times."""
    folder.mkdir()
    random = np.random.default_rng(0)
    files = [folder / f"{number}.jpg" for number in range(min(FILES, count))]
    for file in files:
        coarse = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(file, quality=90)
    return [Picture(str(number), files[number % len(files)]) for number in range(count)]


if __name__ == "__main__":
    main()
