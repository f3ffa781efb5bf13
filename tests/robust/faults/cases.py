"""Every command that writes, with the smallest input that it takes."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Content = dict[str, bytes]
"""The files of a result by their path below it; "" for a result that is a file itself."""


@dataclass(frozen=True)
class Case:
    """A command, and what it leaves."""

    name: str
    words: tuple[str, ...]
    """In a folder with the files of `make_inputs`; {out} stands for the result."""
    other: tuple[str, ...] | None = None
    """The words that make another result in the same place, which is then the previous one. None where the command
    takes no place that is taken."""
    out: str = "out"
    progress: tuple[str, ...] = ()
    """Files of the result that change while the command runs, and let it go on; they hold times, and so are never the
    same."""

    can_go_on: bool = False
    """Whether a part of a result is left by a kill, from which the next run goes on."""

    def content(self, out: Path) -> Content:
        """The result as it is, without litter and progress."""
        return {name: file for name, file in content(out).items() if name not in self.progress and not is_litter(name)}


def is_litter(name: str) -> bool:
    """True for what a killed process may leave behind: temporary files and folders by their name."""
    return any(part.startswith(".vocabkit-") for part in Path(name).parts)


def content(path: Path) -> Content:
    """All files at `path` and below."""
    if path.is_dir():
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
    return {"": path.read_bytes()} if path.exists() else {}


def make_inputs(folder: Path) -> None:
    """What the commands read: tokenizers, a small world, adapters and results."""
    import torch
    from small_world import make_world
    from tokenizer_files import bpe_json, write_json
    from vision_models import VISION

    from vocabkit.adapter.config import AdapterConfig, MLPConfig
    from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
    from vocabkit.llm.embeddings import open_embeddings
    from vocabkit.shared.shared_vocabulary import open_shared
    from vocabkit.tokenizer.read import read
    from vocabkit.transfer.published import to_published
    from vocabkit.transfer.transfer import Target, transfer

    folder.mkdir()
    for name, pieces in (("a", "abcdef"), ("b", "fedcb"), ("c", "cab")):
        write_json(folder / f"{name}.json", bpe_json(list(pieces)))
    for name, rows in (("map1", "bcd"), ("map2", "cb")):
        write_json(folder / f"{name}.json", {row: "abcdef".index(row) for row in rows})
    world = make_world(folder / "world")
    shared = open_shared(world.shared)
    two = Target(read(folder / "world/two", "two"), open_embeddings(folder / "world/two"))
    torch.manual_seed(0)
    for number in (1, 2):
        config = AdapterConfig.of(shared, llm="one", vision_width=VISION, hidden_width=24)
        adapter = LangBridgeAdapter(config, shared)
        adapter.save(folder / f"linear{number}.pt")
        torch.save(to_published(adapter), folder / f"mm_projector{number}.bin")
        transfer(adapter, two)[0].save(folder / f"moved{number}.pt")
        softmax = LangBridgeAdapter(dataclasses.replace(config, head="softmax"), shared)
        transfer(softmax, two)[0].save(folder / f"softmax{number}.pt")
        mlp = MLPConfig(vision_width=VISION, hidden_width=24, llm_width=32, llm="two")
        MLPProjector(mlp).save(folder / f"mlp{number}.pt")
    shutil.copytree(world.features, folder / "features")
    settings = {"data": ["world/data.json"], "llm": "one=world/one", "features": "features",
                "shared": "world/shared.arrow", "steps": 4, "checkpoint_every": 1}  # fmt: skip
    world.write_recipe(folder / "recipe.toml", **settings)
    tuning = {"shared": None, "adapter": "linear1.pt", "train_llm": "lora", "lora_rank": 2}
    world.write_recipe(folder / "recipe-lora.toml", **settings | tuning)


def _cases() -> Iterator[Case]:
    def case(name: str, words: str, other: str | None = None, **options: Any) -> Case:
        return Case(name, tuple(words.split()), None if other is None else tuple(other.split()), **options)

    def twice(name: str, words: str, one: str = "1", two: str = "2", **options: Any) -> Case:
        """A command on two inputs, the second of which gives the previous result."""
        words += " --out {out} --overwrite"
        return case(name, words.replace("#", one), words.replace("#", two), **options)

    def page(name: str, words: str, one: str = "1", two: str = "2") -> Case:
        words += " --html {out} --overwrite"
        return case(name, words.replace("#", one), words.replace("#", two), out="out.html")

    run = "world/data.json --llm two=world/two --features features --limit 4"
    transfer, vision = "transfer linear#.pt --to two=world/two", "--vision world/vision"
    going_on: dict[str, Any] = {"can_go_on": True, "progress": ("state.pt", "metrics.jsonl")}
    yield twice("build-shared", "build-shared x=a.json y=#.json", "b", "c")
    yield twice("import-map", "import map#.json x=a.json y=b.json")
    yield case("scenes", "scenes {out} --train 4 --held-out 2 --size 32")
    yield case("features", f"features world/data.json {vision} --out {{out}}", can_go_on=True)
    yield case("train", "train recipe.toml --out {out}", **going_on)
    yield case("finetune", "train recipe-lora.toml --out {out}", **going_on)
    for name, out in (("", "out.pt"), (" folder", "out")):
        yield twice(f"import-adapter{name}", "import mm_projector#.bin --shared world/shared.arrow --llm one", out=out)
        yield twice(f"transfer{name}", transfer, out=out)
    yield twice("export projector", "export moved#.pt --as projector", out="out.pt")
    yield twice("export mmproj", f"export moved#.pt --as mmproj {vision}", out="out.gguf")
    yield case("export llava", f"export moved1.pt --as llava --llm two=world/two {vision} --out {{out}}")
    yield twice("export mm_projector", "export mlp#.pt --as mm_projector", out="out.bin")
    yield twice("distill", "export softmax#.pt --as projector --features features --steps 3", out="out.pt")
    yield case("infer", f"infer moved1.pt world/data.json {vision} --out {{out}}", can_go_on=True)
    yield case("infer words", f"infer linear1.pt world/data.json {vision} --top 2 --out {{out}}", can_go_on=True)
    captions = "--scale captions --data world/data.json --features features --limit 4"
    yield twice("transfer by captions", f"{transfer} {captions}", out="out.pt")
    yield twice("validate", f"validate {run} --adapter mlp=mlp#.pt", out="out.json")
    yield page("overlap --html", "overlap x=a.json y=#.json", "b", "c")
    yield page("interpret --html", f"interpret linear#.pt world/1.png --llm one=world/one {vision}")
    yield page("check-transfer --html", "check moved#.pt linear#.pt --to two=world/two")


CASES = tuple(_cases())
"""Other commands only print."""
