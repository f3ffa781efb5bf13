"""Cached features are those of the encoder, each computed once, whatever interrupts the work."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from painted_pictures import painted
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from vision_models import PATCHES, VISION, clip, siglip

from vocabkit.data import shards as shard_files
from vocabkit.data.partition import Partition
from vocabkit.data.pictures import load_image
from vocabkit.data.samples import Picture
from vocabkit.errors import VocabkitError
from vocabkit.vision import feature_files, features
from vocabkit.vision.encoder import VisionEncoder, open_vision
from vocabkit.vision.features import CacheReport, cache_features, open_features

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def encoder(model: Path) -> VisionEncoder:
    return open_vision(str(model))


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of at most two pictures."""
    monkeypatch.setattr(feature_files, "SHARD_BYTES", 2 * PATCHES * VISION * 2)


def features_of(encoder: VisionEncoder, picture: Picture) -> Tensor:
    """(N, Dv), of one picture alone."""
    return encoder(encoder.pixels(load_image(picture))[None])[0]


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


class Watched(VisionEncoder):
    """An encoder that counts the pictures it is given, and knows the threads that ask it for pixels."""

    def __init__(self, encoder: VisionEncoder) -> None:
        vars(self).update(vars(encoder))
        self.seen = 0
        self.threads: list[threading.Thread] = []
        """That asked for pixels, once for each time."""

    def pixels(self, image: Image.Image) -> Tensor:
        self.threads.append(threading.current_thread())
        return super().pixels(image)

    def __call__(self, pixels: Tensor) -> Tensor:
        self.seen += len(pixels)
        return super().__call__(pixels)


# ---- what is in a cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_cached_features_are_the_encoders_rounded_to_the_stored_dtype(
    encoder: VisionEncoder, tmp_path: Path, dtype: torch.dtype
) -> None:
    pictures = painted(tmp_path / "images", 7)
    report = cache_features(encoder, pictures, tmp_path / "out", batch_size=3, dtype=dtype)
    assert report == CacheReport(pictures=7, cached=0, computed=7, equal=0, broken=0, left=0, first_broken=())
    features = open_features(tmp_path / "out")
    assert len(features) == 7
    assert set(features.keys) == {picture.key for picture in pictures}
    for picture in pictures:
        assert features[picture.key].dtype == dtype
        assert features[picture.key].shape == (PATCHES, VISION)
        tolerance = 1e-3 if dtype == torch.float16 else 1e-5
        assert_close(features[picture.key].float(), features_of(encoder, picture), rtol=tolerance, atol=tolerance)


def test_cache_records_its_encoder(model: Path, tmp_path: Path) -> None:
    encoder = open_vision(str(model), layer=-1, keep_cls=True, pool=(2, 2))
    cache_features(encoder, painted(tmp_path / "images", 1), tmp_path / "out")
    features = open_features(tmp_path / "out")
    assert features.encoder == {
        "name": str(model), "layer": -1, "keep_cls": True, "pool": (2, 2), "image_aspect_ratio": "square",
        "grid": (2, 2), "tokens": 5,
        "width": VISION, "precision": "float32", "dtype": "float16", "fingerprint": encoder.info["fingerprint"],
    }  # fmt: skip
    assert (features.tokens, features.width) == (5, VISION)


def test_pictures_of_efficientnet_lite0_are_pooled(tmp_path: Path) -> None:
    encoder = open_vision("efficientnet-lite0", pool=(4, 4))
    pictures = painted(tmp_path / "images", 2)
    cache_features(encoder, pictures, tmp_path / "out")
    found = open_features(tmp_path / "out")["1.png"]
    assert found.shape == (16, 1280)
    assert_close(found.float(), features_of(encoder, pictures[1]), rtol=2e-3, atol=2e-3)


@pytest.mark.usefixtures("small_shards")
def test_shards_have_bounded_size(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 7)
    cache_features(encoder, pictures, tmp_path / "out", batch_size=1)
    assert len(shards(tmp_path / "out")) == 4
    features = open_features(tmp_path / "out")
    for picture in pictures:
        assert_close(features[picture.key].float(), features_of(encoder, picture), rtol=1e-3, atol=1e-3)


def test_missing_key_raises(encoder: VisionEncoder, tmp_path: Path) -> None:
    cache_features(encoder, painted(tmp_path / "images", 1), tmp_path / "out")
    features = open_features(tmp_path / "out")
    assert "0.png" in features
    assert "1.png" not in features
    with pytest.raises(VocabkitError, match=r"no features of '1\.png'; run `vocabkit features`"):
        features["1.png"]


def test_picture_may_be_bytes(encoder: VisionEncoder, tmp_path: Path) -> None:
    (picture,) = painted(tmp_path / "images", 1)
    assert isinstance(picture.source, Path)
    cache_features(encoder, [Picture("row 0", picture.source.read_bytes())], tmp_path / "out")
    assert_close(open_features(tmp_path / "out")["row 0"].float(), features_of(encoder, picture), rtol=1e-3, atol=1e-3)


def test_progress_counts_pictures(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 5)
    done: list[tuple[str, int, int | None]] = []
    cache_features(encoder, pictures[:2], tmp_path / "out")
    cache_features(encoder, pictures, tmp_path / "out", batch_size=2, progress=lambda *call: done.append(call))
    assert done == [(encoder.name, 0, 5), (encoder.name, 4, 5), (encoder.name, 5, 5)]


# ---- each picture once -------------------------------------------------------------------------------------------


def test_picture_of_several_samples_is_computed_once(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures, watched = painted(tmp_path / "images", 3), Watched(encoder)
    report = cache_features(watched, pictures * 4, tmp_path / "out", batch_size=2)
    assert (report.pictures, report.computed, watched.seen) == (3, 3, 3)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_equal_pictures_under_several_keys_share_a_row(encoder: VisionEncoder, tmp_path: Path, batch_size: int) -> None:
    pictures, watched = painted(tmp_path / "images", 5), Watched(encoder)
    for number in (0, 3):
        copy = tmp_path / "images" / f"copy of {number}.png"
        shutil.copy(tmp_path / "images" / f"{number}.png", copy)
        pictures.append(Picture(copy.name, copy))
    report = cache_features(watched, pictures, tmp_path / "out", batch_size=batch_size)
    assert (report.computed, report.equal, watched.seen) == (5, 2, 5)
    features = open_features(tmp_path / "out")
    assert len(features) == 7
    assert torch.equal(features["copy of 3.png"], features["3.png"])
    assert not torch.equal(features["copy of 3.png"], features["copy of 0.png"])


def test_many_keys_can_share_a_row(encoder: VisionEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("features", "feature_files"):
        monkeypatch.setattr(f"vocabkit.vision.{module}.SHARD_PICTURES", 3)
    (picture,) = painted(tmp_path / "images", 1)
    pictures = [Picture(f"page {number}", picture.source) for number in range(10)]
    report = cache_features(encoder, pictures, tmp_path / "out")
    assert (report.computed, report.equal) == (1, 9)
    assert len(shards(tmp_path / "out")) == 4
    features = open_features(tmp_path / "out")
    assert all(torch.equal(features[key], features["page 0"]) for key in features.keys)
    assert len(features) == 10


def test_finished_cache_can_grow(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures, watched = painted(tmp_path / "images", 6), Watched(encoder)
    cache_features(encoder, pictures[:4], tmp_path / "out")
    report = cache_features(watched, pictures[2:], tmp_path / "out")
    assert (report.pictures, report.cached, report.computed, watched.seen) == (4, 2, 2, 2)
    features = open_features(tmp_path / "out")
    assert len(features) == 6
    for picture in pictures:
        assert_close(features[picture.key].float(), features_of(encoder, picture), rtol=1e-3, atol=1e-3)


def test_key_of_two_pictures_raises(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = [*painted(tmp_path / "one", 1), *painted(tmp_path / "other", 1, seed=1)]
    with pytest.raises(VocabkitError, match=r"'0\.png' is the key of two pictures"):
        cache_features(encoder, pictures, tmp_path / "out")


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("changed", range(0, 20, 6))
def test_changed_picture_raises(encoder: VisionEncoder, tmp_path: Path, finished: bool, changed: int) -> None:
    pictures = painted(tmp_path / "images", 20)
    cache_features(encoder, pictures, tmp_path / "out")
    if not finished:
        (tmp_path / "out" / shard_files.INDEX).unlink()
    painted(tmp_path / "others", 20, seed=1)
    shutil.copy(tmp_path / "others" / "2.png", tmp_path / "images" / f"{changed}.png")
    with pytest.raises(VocabkitError, match=rf"out: '{changed}\.png' has changed since its features were computed"):
        cache_features(encoder, pictures, tmp_path / "out")


def test_file_that_was_written_again_with_the_same_pixels_is_the_same_picture(
    encoder: VisionEncoder, tmp_path: Path
) -> None:
    pictures, file = painted(tmp_path / "images", 20), tmp_path / "images" / "5.png"
    cache_features(encoder, pictures, tmp_path / "out")
    before = file.read_bytes()
    Image.open(file).save(file, compress_level=1)
    assert file.read_bytes() != before
    assert cache_features(encoder, pictures, tmp_path / "out").cached == 20


def test_cached_pictures_are_not_decoded_again(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures, watched = painted(tmp_path / "images", 20), Watched(encoder)
    cache_features(encoder, pictures, tmp_path / "out")
    (tmp_path / "images" / "0.png").unlink()  # not needed any more
    report = cache_features(watched, pictures, tmp_path / "out")
    assert (report.cached, report.computed, report.broken) == (20, 0, 0)
    assert not watched.threads


def test_pictures_are_streamed(encoder: VisionEncoder, tmp_path: Path) -> None:
    taken, ahead = 0, []

    def stream() -> Iterator[Picture]:
        nonlocal taken
        for picture in painted(tmp_path / "images", 40):
            taken += 1
            yield picture

    def progress(what: str, done: int, total: int | None) -> None:
        assert total is None
        ahead.append(taken - done)

    cache_features(encoder, stream(), tmp_path / "out", batch_size=4, progress=progress)
    assert max(ahead) <= 9


def test_pictures_are_opened_by_other_threads(encoder: VisionEncoder, tmp_path: Path) -> None:
    watched = Watched(encoder)
    cache_features(watched, painted(tmp_path / "images", 8), tmp_path / "out")
    assert len(watched.threads) == 8
    assert threading.main_thread() not in watched.threads


# ---- pictures that can't be used ---------------------------------------------------------------------------------


def test_missing_and_broken_pictures_are_counted_and_the_first_named(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 4)
    damaged = tmp_path / "images" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    pictures += [Picture(f"gone {number}", tmp_path / f"gone {number}") for number in range(6)]
    report = cache_features(encoder, pictures, tmp_path / "out")
    assert (report.pictures, report.computed, report.broken) == (10, 3, 7)
    assert len(report.first_broken) == 5
    assert "1.png" in report.first_broken[0]
    assert "gone 0: no such file" in report.first_broken[1]
    assert set(open_features(tmp_path / "out").keys) == {"0.png", "2.png", "3.png"}


def test_missing_picture_is_tried_again(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 2)
    hidden = tmp_path / "images" / "1.png"
    hidden.rename(tmp_path / "elsewhere.png")
    assert cache_features(encoder, pictures, tmp_path / "out").broken == 1
    (tmp_path / "elsewhere.png").rename(hidden)
    report = cache_features(encoder, pictures, tmp_path / "out")
    assert (report.cached, report.computed, report.broken) == (1, 1, 0)


def test_no_usable_picture_raises(encoder: VisionEncoder, tmp_path: Path) -> None:
    with pytest.raises(VocabkitError, match=r"none of 1 pictures can be used; the first: .*gone: no such file"):
        cache_features(encoder, [Picture("gone", tmp_path / "gone")], tmp_path / "out")
    with pytest.raises(VocabkitError, match="no pictures in the data"):
        cache_features(encoder, [], tmp_path / "out")
    with pytest.raises(VocabkitError, match="no cached features, or unfinished"):
        open_features(tmp_path / "out")


def test_nonfinite_features_raise(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 3)
    with torch.no_grad():  # an encoder beyond float16
        for parameter in encoder.model.module.encoder.layers[1].mlp.fc2.parameters():
            parameter.add_(1e5)
    with pytest.raises(VocabkitError, match=r"0\.png: its features are not finite as torch\.float16; take float32"):
        cache_features(encoder, pictures, tmp_path / "out")
    assert not shards(tmp_path / "out")
    assert cache_features(encoder, pictures, tmp_path / "out", dtype=torch.float32).computed == 3


# ---- interruptions -----------------------------------------------------------------------------------------------


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from vocabkit.vision import feature_files, features
from vocabkit.data.samples import Picture
from vocabkit.vision.features import cache_features
from vocabkit.vision.encoder import open_vision
feature_files.SHARD_BYTES = {shard_bytes}
pictures = [Picture(f"{{n}}.png", Path({images!r}) / f"{{n}}.png") for n in range(10)]
def killed(what, done, total):
    if done >= {kill_at}:
        os.kill(os.getpid(), signal.SIGKILL)
cache_features(open_vision({model!r}), pictures, Path({out!r}), batch_size=1, progress=killed)
"""


@pytest.mark.robust
@pytest.mark.usefixtures("small_shards")
def test_killed_run_resumes(encoder: VisionEncoder, model: Path, tmp_path: Path) -> None:
    pictures, out = painted(tmp_path / "images", 10), tmp_path / "out"
    code = KILLED.format(
        tests=str(HERE.parent / "support"), images=str(tmp_path / "images"), model=str(model), out=str(out), kill_at=7,
        shard_bytes=feature_files.SHARD_BYTES,
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(shards(out)) == 3
    with pytest.raises(VocabkitError, match=r"no index.json: no cached features, or unfinished"):
        open_features(out)
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in shards(out)}

    watched = Watched(encoder)
    report = cache_features(watched, pictures, out, batch_size=1)
    assert (report.pictures, report.cached, report.computed, watched.seen) == (10, 6, 4, 4)
    assert all((file.stat().st_mtime_ns, file.read_bytes()) == content for file, content in before.items())
    features = open_features(out)
    for picture in pictures:
        assert_close(features[picture.key].float(), features_of(encoder, picture), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_parts_make_the_index_of_a_single_run_in_any_order(
    encoder: VisionEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[int, ...]
) -> None:
    monkeypatch.setattr(features, "SHARD_PICTURES", 2)
    pictures, index = painted(tmp_path / "pictures", 7), tmp_path / "parts" / shard_files.INDEX
    cache_features(encoder, pictures, tmp_path / "whole", batch_size=2)
    for part in order:
        assert not index.exists()  # so that nobody trains with a third of the features
        report = cache_features(encoder, pictures, tmp_path / "parts", batch_size=2, partition=Partition(part, 3))
    assert (report.pictures, report.left) == (7, 0)
    whole, parts = open_features(tmp_path / "whole"), open_features(tmp_path / "parts")
    assert whole.keys == parts.keys
    assert all(torch.equal(whole[key], parts[key]) for key in whole.keys)
    assert index.read_bytes() == (tmp_path / "whole" / shard_files.INDEX).read_bytes()


@pytest.mark.parametrize("broken", ["0.png", "1.png 2.png 3.png"])
def test_broken_picture_of_another_part_is_reported_and_waited_for_by_nobody(
    encoder: VisionEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    monkeypatch.setattr(features, "SHARD_PICTURES", 1)
    pictures, good = painted(tmp_path / "pictures", 4), dict[Path, bytes]()
    for name in broken.split():
        good[tmp_path / "pictures" / name] = (tmp_path / "pictures" / name).read_bytes()
        (tmp_path / "pictures" / name).write_bytes(b"no picture")

    def run(part: str) -> CacheReport:
        return cache_features(encoder, pictures, tmp_path / "out", partition=Partition.parse(part))

    assert run("1/2").left == 2
    assert not (tmp_path / "out" / shard_files.INDEX).exists()
    report = run("2/2")
    assert (report.left, report.broken, report.cached + report.computed) == (0, len(good), 4 - len(good))
    assert "not an image" in report.first_broken[0]
    assert len(open_features(tmp_path / "out")) == 4 - len(good)
    before = shards(tmp_path / "out")
    assert (run("1/2").broken, run("1/1").broken, shards(tmp_path / "out")) == (len(good), len(good), before)
    for file, content in good.items():
        file.write_bytes(content)
    assert run("1/1").computed == len(good)
    assert len(open_features(tmp_path / "out")) == 4


def test_part_that_ends_while_another_one_computes_is_seen(
    encoder: VisionEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_PICTURES", 2)
    pictures = painted(tmp_path / "pictures", 6)
    rest = feature_files.FeatureWriter.write_rest

    def meanwhile(self: feature_files.FeatureWriter) -> None:
        monkeypatch.setattr(feature_files.FeatureWriter, "write_rest", rest)
        assert cache_features(encoder, pictures, tmp_path / "out", partition=Partition(2, 2)).left == 4
        rest(self)

    monkeypatch.setattr(feature_files.FeatureWriter, "write_rest", meanwhile)
    assert cache_features(encoder, pictures, tmp_path / "out", partition=Partition(1, 2)).left == 0
    assert len(open_features(tmp_path / "out")) == 6


def test_index_has_the_shards_that_other_processes_wrote_meanwhile(
    encoder: VisionEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = painted(tmp_path / "pictures", 6)
    finish = shard_files.ShardFolder.finish

    def interrupted(self: shard_files.ShardFolder, index: bytes) -> None:
        """A process with other data writes its index before ours, which lacks its shard, replaces it."""
        monkeypatch.setattr(shard_files.ShardFolder, "finish", finish)
        cache_features(encoder, pictures[3:], tmp_path / "out")
        finish(self, index)

    monkeypatch.setattr(shard_files.ShardFolder, "finish", interrupted)
    cache_features(encoder, pictures[:3], tmp_path / "out")
    assert len(open_features(tmp_path / "out")) == 6


@pytest.mark.usefixtures("small_shards")
def test_features_in_an_object_store_are_those_on_a_disk_and_resume(encoder: VisionEncoder, tmp_path: Path) -> None:
    import fsspec

    memory, url = fsspec.filesystem("memory"), "memory://features/out"
    pictures = painted(tmp_path / "images", 7)
    for out in (tmp_path / "out", url):
        assert cache_features(encoder, pictures[:4], out).computed == 4
        report = cache_features(encoder, pictures, out)
        assert (report.cached, report.computed) == (4, 3)
    local = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert {Path(file).name: memory.cat_file(file) for file in memory.find("/features/out")} == local
    file = next(iter(memory.glob("/features/out/*.safetensors")))
    memory.pipe_file(file, (1 << 60).to_bytes(8, "little") + memory.cat_file(file)[8:])
    with pytest.raises(VocabkitError, match=r"memory://features/out/.*: not written by|damaged"):
        cache_features(encoder, pictures, url)
    memory.pipe_file(file, local[Path(file).name][:100])
    with pytest.raises(VocabkitError, match=r"memory://features/out/.*: damaged .*; remove it and run"):
        cache_features(encoder, pictures, url)


def test_leftovers_of_a_killed_write_are_ignored(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures, out = painted(tmp_path / "images", 2), tmp_path / "out"
    out.mkdir()
    (out / ".vocabkit-0123456789abcdef.tmp").write_bytes(b"half a shard")
    assert cache_features(encoder, pictures, out).computed == 2
    assert len(open_features(out)) == 2


def test_cache_can_be_read_while_it_grows(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures, out = painted(tmp_path / "images", 4), tmp_path / "out"
    cache_features(encoder, pictures[:2], out)
    early = open_features(out)
    cache_features(encoder, pictures, out)
    assert len(early) == 2
    assert torch.equal(early["1.png"], open_features(out)["1.png"])


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_other_encoder_or_setting_raises(encoder: VisionEncoder, model: Path, tmp_path: Path) -> None:
    pictures, out, source = painted(tmp_path / "images", 2), tmp_path / "out", str(model)
    cache_features(encoder, pictures, out)
    (out / shard_files.INDEX).unlink()  # also while it is unfinished
    others = {
        "`layer` -2, now -1": open_vision(source, layer=-1),
        "without `keep_cls`, now with": open_vision(source, keep_cls=True),
        r"`pool` none, now \[2, 2\]": open_vision(source, pool=(2, 2)),
        '`precision` "float32", now "bfloat16"': open_vision(source, dtype=torch.bfloat16),
        ".*another vision model": open_vision(str(siglip(tmp_path / "siglip"))),
    }
    for difference, other in others.items():
        with pytest.raises(
            VocabkitError, match=rf"out: holds features of other settings \({difference}.*choose another folder"
        ):
            cache_features(other, pictures, out)
    with pytest.raises(VocabkitError, match='`dtype` "float16", now "float32"'):
        cache_features(encoder, pictures, out, dtype=torch.float32)


def test_fingerprint_covers_weights_and_preprocessing(encoder: VisionEncoder, tmp_path: Path) -> None:
    same = open_vision(str(clip(tmp_path / "same")))
    assert same.info == {**encoder.info, "name": str(tmp_path / "same")}
    settings = clip(tmp_path / "settings") / "preprocessor_config.json"
    settings.write_text(settings.read_text().replace('"resample": 3', '"resample": 2'))
    assert open_vision(str(tmp_path / "settings")).info["fingerprint"] != encoder.info["fingerprint"]
    weights = clip(tmp_path / "weights", dtype=torch.bfloat16)
    assert open_vision(str(weights)).info["fingerprint"] != encoder.info["fingerprint"]


def test_moved_model_resumes(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 2)
    cache_features(encoder, pictures[:1], tmp_path / "out")
    moved = open_vision(str(clip(tmp_path / "moved")))
    assert cache_features(moved, pictures, tmp_path / "out").computed == 1


def test_folder_of_other_files_raises(encoder: VisionEncoder, model: Path, tmp_path: Path) -> None:
    pictures = painted(tmp_path / "images", 1)
    with pytest.raises(VocabkitError, match=r"model\.safetensors: not written by `vocabkit features`"):
        cache_features(encoder, pictures, model)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "mine.safetensors").write_bytes(b"of the user")
    with pytest.raises(VocabkitError, match=r"mine\.safetensors: not written by `vocabkit features`; choose a folder"):
        cache_features(encoder, pictures, tmp_path / "junk")
    (tmp_path / "file").write_text("")
    with pytest.raises(VocabkitError, match="file: is a file; name a folder"):
        cache_features(encoder, pictures, tmp_path / "file")


def edited(out: Path, old: str, new: str) -> None:
    index = out / shard_files.INDEX
    text = index.read_text()
    assert old in text
    index.write_text(text.replace(old, new))


def test_damaged_index_raises_in_one_line(encoder: VisionEncoder, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    cache_features(encoder, painted(tmp_path / "images", 2), fresh)
    name = shards(fresh)[0].name
    damages = {
        "damaged": ('"0.png":[0,0]', '"0.png":[0,'),
        "Expected `array`": ('"0.png":[0,0]', '"0.png":"0"'),
        "names files that are not shards": (name, "../../secret.safetensors"),
        "a key is in no shard": ('"0.png":[0,0]', '"0.png":[1,0]'),
        "this vocabkit reads": ("vocabkit-features/1", "vocabkit-features/2"),
        "is beyond its shard": ('"0.png":[0,0]', '"0.png":[0,2]'),
        "no such file": (name, f"{'0' * 32}.safetensors"),
        "holds no float16 features of 16 x 31": ('"width":32', '"width":31'),
    }
    for number, (words, (old, new)) in enumerate(damages.items()):
        out = tmp_path / str(number)
        shutil.copytree(fresh, out)
        edited(out, old, new)
        with pytest.raises(VocabkitError, match=words) as caught:
            open_features(out)["0.png"]
        assert "\n" not in str(caught.value)


def test_index_with_wrong_sizes_raises(encoder: VisionEncoder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    cache_features(encoder, painted(tmp_path / "images", 2), out)
    edited(out, '"width":32', f'"width":{10**12}')
    with pytest.raises(VocabkitError, match=f"{shards(out)[0].name}: holds no float16 features of 16 x {10**12}"):
        open_features(out)


def test_damaged_shard_raises(encoder: VisionEncoder, tmp_path: Path) -> None:
    pictures, out = painted(tmp_path / "images", 2), tmp_path / "out"
    cache_features(encoder, pictures, out)
    shard = shards(out)[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    for use in (lambda: open_features(out)["0.png"], lambda: cache_features(encoder, pictures, out)):
        with pytest.raises(VocabkitError, match=f"{shard.name}: damaged .*remove it and run the same command again"):
            use()
    shard.unlink()
    assert cache_features(encoder, pictures, out).computed == 2
