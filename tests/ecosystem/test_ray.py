"""Predictor in Ray Data: two actors, one of which is killed while it works."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import vocabkit_here
from infer_world import table
from programs import in_ecosystem

ROOT = Path(__file__).parents[2]
CODE = """
import json, os, signal, sys, threading, time
from pathlib import Path
import ray
from vocabkit.infer.predictor import Predictor

adapter, folder = sys.argv[1:]
done = Path("done").absolute()
done.mkdir()

class Told(Predictor):
    def __call__(self, batch):
        found = super().__call__(batch)
        (done / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(0.5)
        return {**found, "process": [os.getpid()] * len(batch["image"])}

def kill_one():
    while not (finished := sorted(done.iterdir())):
        time.sleep(0.05)
    os.kill(int(finished[0].name.partition("-")[0]), signal.SIGKILL)

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
pictures = [{"image": file.read_bytes(), "path": str(file)} for file in sorted(Path(folder).iterdir())]
data = ray.data.from_items([*pictures, {"image": b"nothing", "path": "broken"}], override_num_blocks=8)
settings = {"adapter": adapter, "words": True, "top": 2, "batch": 4, "device": "cpu"}
threading.Thread(target=kill_one, daemon=True).start()
found = data.map_batches(
    Told, fn_constructor_kwargs=settings, compute=ray.data.ActorPoolStrategy(size=2), batch_size=4
).take_all()
killed = min(done.iterdir()).name.partition("-")[0]
numbers = ray.data.read_images(folder).map_batches(
    Predictor, fn_constructor_kwargs=settings, compute=ray.data.ActorPoolStrategy(size=1), batch_size=4
).take_all()
Path("found.json").write_text(json.dumps({
    "rows": {row["path"]: [row["error"], row["words"], row["share"]] for row in found},
    "count": len(found),
    "processes": len({row["process"] for row in found} | {int(killed)}),
    "of_pixels": sorted(row["words"] for row in numbers),
}))
"""


def test_results_are_those_of_a_single_run_though_an_actor_was_killed(tmp_path: Path) -> None:
    drawn = vocabkit_here(tmp_path, "scenes", "scenes", "--train", "32", "--held-out", "1", "--only", "train")
    assert drawn.returncode == 0, drawn.stderr
    pictures, adapter = tmp_path / "scenes" / "images", ROOT / "data" / "scenes-words.pt"
    single = ("infer", adapter, pictures, "--words", "--top", "2", "--batch", "4", "--device", "cpu", "--out", "out")
    assert vocabkit_here(tmp_path, *single).returncode == 0
    expected = {row["image"]: ["", row["words"], row["share"]] for row in table(tmp_path / "out").to_pylist()}

    in_ecosystem(tmp_path, "-c", CODE, adapter, pictures)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["processes"] == 3  # the killed one, the other one, and the one in place of the first
    broken = found["rows"].pop("broken")
    assert broken[0].startswith("row ")
    assert broken[1] is None
    assert found["count"] == len(expected) + 1
    assert found["rows"] == expected
    assert found["of_pixels"] == sorted(words for _, words, _ in expected.values())
