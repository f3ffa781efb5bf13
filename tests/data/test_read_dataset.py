"""Reading Hugging Face data sets from local folders."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from picture_files import encoded, record

from vocabkit.data.hf_datasets import read_dataset
from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import Picture, Sample, Turn
from vocabkit.data.sources import Columns, pictures_of, samples_of
from vocabkit.errors import VocabkitError

APPLE, OWL = encoded(colour="red"), encoded(colour="blue")


def parquet(folder: Path, split: str = "train", **columns: Any) -> str:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return str(folder)


def content(picture: Picture) -> bytes:
    """Of a picture that is read when it is opened."""
    assert callable(picture.source)
    return picture.source()


def refusal(source: str, **options: str) -> str:
    with pytest.raises(VocabkitError) as caught:
        list(read_dataset(source, **options))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"{source}: ")
    return message.removeprefix(f"{source}: ")


def test_row_of_image_and_caption_becomes_a_sample(tmp_path: Path) -> None:
    images = [{"bytes": APPLE, "path": "apple.png"}, {"bytes": OWL, "path": None}]
    source = parquet(tmp_path / "a", image=images, text=["a red apple", "an owl"], licence=["x", "y"])
    samples = list(read_dataset(source))
    assert samples == [
        Sample("train/0", samples[0].images, (Turn("<image>", "a red apple"),), {"licence": "x"}),
        Sample("train/1", samples[1].images, (Turn("<image>", "an owl"),), {"licence": "y"}),
    ]
    pictures = [sample.images[0] for sample in samples]
    assert [(picture.key, content(picture)) for picture in pictures] == [("train/0/0", APPLE), ("train/1/0", OWL)]


def test_columns_and_split_can_be_chosen(tmp_path: Path) -> None:
    parquet(tmp_path / "a", image=[APPLE], text=["no"])
    source = parquet(tmp_path / "a", "validation", photo=[OWL], alt=["an owl"])
    (tmp_path / "a" / "train.parquet").unlink()
    (sample,) = read_dataset(source, split="validation", image_column="photo", text_column="alt")
    assert sample == Sample("validation/0", sample.images, (Turn("<image>", "an owl"),))
    assert [(picture.key, content(picture)) for picture in sample.images] == [("validation/0/0", OWL)]


def test_row_with_several_images_and_a_conversation(tmp_path: Path) -> None:
    turns = record("<image> or <image>?", "The first.", "Sure?", "Yes.")["conversations"]
    source = parquet(tmp_path / "a", images=[[APPLE, OWL]], conversations=[turns])
    (sample,) = read_dataset(source, image_column="images", text_column="conversations")
    assert [content(picture) for picture in sample.images] == [APPLE, OWL]
    assert sample.turns == (Turn("<image> or <image>?", "The first."), Turn("Sure?", "Yes."))


def test_image_feature_stays_bytes(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    table = datasets.Dataset.from_dict({"image": [APPLE], "text": ["a red apple"]}, features=features)
    (tmp_path / "parquet").mkdir()
    table.to_parquet(tmp_path / "parquet" / "train.parquet")
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "splits")
    for folder in ("parquet", "saved", "splits"):
        (sample,) = read_dataset(str(tmp_path / folder))
        assert [(picture.key, content(picture)) for picture in sample.images] == [("train/0/0", APPLE)]


def test_content_is_not_held_in_memory_and_pickles(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a", image=[os.urandom(1_000_000)], text=["noise"])
    (sample,) = read_dataset(source)
    assert len(pickle.dumps(sample)) < 10_000
    assert content(pickle.loads(pickle.dumps(sample)).images[0]) == content(sample.images[0])


def test_read_pictures_gives_the_same_keys_and_content(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a", image=[[APPLE, OWL], [OWL]])
    streamed = [(picture.key, picture.source) for picture in pictures_of(source)]
    assert streamed == [("train/0/0", APPLE), ("train/0/1", OWL), ("train/1/0", OWL)]


def test_source_is_a_llava_file_or_a_dataset(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "a", photo=[APPLE], alt=["an apple"])
    (tmp_path / "data.json").write_text(json.dumps([record("<image>", "an owl", image="owl.png")]))
    columns = Columns(image="photo", text="alt")
    assert [sample.turns[0].answer for sample in samples_of(folder, columns=columns)] == ["an apple"]
    assert [sample.turns[0].answer for sample in samples_of(str(tmp_path / "data.json"))] == ["an owl"]
    with pytest.raises(VocabkitError, match=r"^no/such.json: no such file$"):  # and no hub id
        next(iter(samples_of("no/such.json")))


def test_images_may_be_files_beside_their_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "photos" / "train"
    folder.mkdir(parents=True)
    (folder / "apple.png").write_bytes(APPLE)
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "apple.png", "text": "a red apple"}))
    monkeypatch.chdir(tmp_path)
    for source in (str(tmp_path / "photos"), "photos"):
        (sample,) = read_dataset(source)
        assert isinstance(sample.images[0].source, Path)
        assert sample.images[0].source.read_bytes() == APPLE
        assert sample.turns == (Turn("<image>", "a red apple"),)


def test_null_image_raises_when_opened(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a", image=pa.array([None, APPLE], pa.binary()), text=["nothing", "a red apple"])
    nothing, apple = read_dataset(source)
    with pytest.raises(BrokenImage, match=r"^train/0/0: is null or empty$"):
        load_image(nothing.images[0])
    assert load_image(apple.images[0]).size == (16, 16)


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_missing_column_raises_with_the_known_ones(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a", image=[APPLE], caption=["an apple"])
    assert (
        refusal(source)
        == "train, row 0: no column 'text'; it has 'image, caption': choose one of them as `text_column`"
    )
    assert "no column 'photo'" in refusal(source, image_column="photo")


@pytest.mark.parametrize("path", ["/etc/passwd", "../other.png", "link.png"])
def test_image_outside_the_dataset_raises(tmp_path: Path, path: str) -> None:
    source = parquet(tmp_path / "a", image=[{"bytes": None, "path": path}], text=["secrets"])
    (tmp_path / "other.png").write_bytes(APPLE)
    (tmp_path / "a" / "link.png").symlink_to(tmp_path / "other.png")
    assert refusal(source).startswith(f"train, row 0: image '{path}' is outside {source}")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"image": [APPLE], "text": pa.array([None], pa.string())}, "column 'text' holds NoneType"),
        ({"image": [APPLE], "text": [7]}, "column 'text' holds int, expected a caption or a conversation"),
        ({"image": [APPLE], "text": [["an apple"]]}, "not a conversation between human and gpt"),
        ({"image": [7], "text": ["seven"]}, "an image is int, expected bytes or the name of a file"),
    ],
)
def test_malformed_row_raises_with_its_number(tmp_path: Path, columns: dict[str, Any], problem: str) -> None:
    message = refusal(parquet(tmp_path / "a", **columns))
    assert message.startswith("train, row 0: ")
    assert problem in message


def test_unreadable_dataset_raises_in_one_line(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a", image=[APPLE], text=["an apple"])
    assert "can't read split 'test' of this dataset" in refusal(source, split="test")
    (tmp_path / "a" / "train.parquet").write_bytes(b"PAR1 and no more")
    assert "can't read split 'train' of this dataset" in refusal(source)
    (tmp_path / "empty").mkdir()
    assert refusal(str(tmp_path / "empty")) == "no pictures in this folder; name one that has some"
    (tmp_path / "empty" / "notes.txt").write_text("nothing to see")
    assert refusal(str(tmp_path / "empty")) == "no pictures in this folder; name one that has some"
    assert refusal(str(tmp_path / "absent")) == "no such folder, and no hub id (owner/name)"
    absent = "no such file or folder, and can't read split 'train' of this dataset"
    assert absent in refusal("nobody/nothing")  # offline


@pytest.mark.parametrize("read", [pictures_of, samples_of])
def test_lists_and_tables_are_no_file_of_pictures(tmp_path: Path, read: Callable[[str], Iterable[Any]]) -> None:
    for name, content in (("list.txt", "a.png\nb.png\n"), ("list.csv", "image,text\na.png,owl\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(VocabkitError, match=rf"{name}: no file of pictures; give images, a folder of them, tars"):
            list(read(str(tmp_path / name)))
    (tmp_path / "records.txt").write_text('\ufeff\n{"image": "a.png", "conversations": []}\n')
    assert [picture.key for picture in pictures_of(str(tmp_path / "records.txt"))] == ["a.png"]


def test_missing_library_raises_with_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(VocabkitError, match=r"needs datasets: pip install 'vocabkit\[train\]'"):
        next(read_dataset(str(tmp_path)))


# ---- single Parquet files ----------------------------------------------------------------------------------------


def test_parquet_file_is_read_by_path_pattern_and_url(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    for name in ("a[1].parquet", "b.parquet"):
        pq.write_table(pa.table({"image": [APPLE, OWL], "text": ["an apple", "an owl"]}), tmp_path / name)
        fsspec.filesystem("memory").put_file(str(tmp_path / name), f"/parquet/{name}")
    keys = ["a[1].parquet/0/0", "a[1].parquet/1/0"]
    samples = list(samples_of(str(tmp_path / "a[1].parquet")))
    assert [picture.key for sample in samples for picture in sample.images] == keys
    assert content(samples[1].images[0]) == OWL
    assert samples[1].turns == (Turn("<image>", "an owl"),)
    assert [picture.key for picture in pictures_of(str(tmp_path / "a[1].parquet"))] == keys
    for folder in (str(tmp_path), "memory://parquet"):
        found = list(pictures_of(f"{folder}/*.parquet"))
        assert [picture.key for picture in found] == [*keys, "b.parquet/0/0", "b.parquet/1/0"]
        assert [picture.source for picture in found] == [APPLE, OWL] * 2


@pytest.mark.parametrize("kind", ["large_binary", "binary_view", "dictionary", "struct"])
def test_any_type_of_bytes_is_a_picture(tmp_path: Path, kind: str) -> None:
    columns: dict[str, Any] = {
        "large_binary": pa.array([APPLE, None], pa.large_binary()),
        "binary_view": pa.array([APPLE, None], pa.binary_view()),
        "dictionary": pa.array([APPLE, None]).dictionary_encode(),
        "struct": pa.array([{"bytes": APPLE, "path": "x.png"}, None]),
    }
    pq.write_table(pa.table({"image": columns[kind]}), tmp_path / "a.parquet")
    assert [picture.source for picture in pictures_of(str(tmp_path / "a.parquet"))] == [APPLE, b""]


def test_row_groups_and_files_may_be_empty(tmp_path: Path) -> None:
    rows = pa.table({"image": pa.array([APPLE, OWL], pa.binary()), "text": ["an apple", "an owl"]})
    with pq.ParquetWriter(tmp_path / "a.parquet", rows.schema) as writer:
        for table in (rows[:0], rows, rows[:0], rows[:0], rows[:1], rows[:0]):
            writer.write_table(table)
    samples = list(samples_of(str(tmp_path / "a.parquet")))
    assert [sample.turns[0].answer for sample in samples] == ["an apple", "an owl", "an apple"]
    assert [content(sample.images[0]) for sample in samples] == [APPLE, OWL, APPLE]
    pq.write_table(rows[:0], tmp_path / "b.parquet")
    assert list(samples_of(str(tmp_path / "b.parquet"))) == []


@pytest.mark.parametrize("read", [pictures_of, samples_of])
def test_what_can_not_be_read_is_one_line_alone(tmp_path: Path, read: Any, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["image", "text", "image"]
    pq.write_table(pa.table([pa.array([APPLE]), pa.array(["x"]), pa.array([OWL])], names), tmp_path / "twice.parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "twice.parquet").read_bytes()[:-20])
    for name, reason in (
        ("twice", "has 2 columns 'image'; rename all but one"),
        ("empty", "can't read ("),
        ("cut", "can't read ("),
    ):
        with pytest.raises(VocabkitError) as caught:
            list(read(str(tmp_path / f"{name}.parquet")))
        assert str(caught.value).startswith(f"{tmp_path / name}.parquet: {reason}")
    assert capfd.readouterr().err == ""


def test_names_of_images_in_a_remote_parquet_file_need_a_disk(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"], "text": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(
        VocabkitError, match=r"image 'a.png' is not in the table; copy the file and its images to one fo"
    ):
        list(pictures_of(f"file://{tmp_path}/a.parquet"))


def test_base64_is_quoted_in_short(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"image": [base64.b64encode(bytes(20_000)).decode()], "text": ["x"]}), tmp_path / "a.parquet"
    )
    with pytest.raises(
        VocabkitError, match=r"is too long for a file name; if it is base64, store the bytes$"
    ) as caught:
        list(pictures_of(str(tmp_path / "a.parquet")))
    assert len(str(caught.value)) < 400


def test_parquet_file_without_rows_has_no_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    assert list(pictures_of(str(tmp_path / "a.parquet"))) == []


def test_bad_parquet_files_raise(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    bad: list[tuple[dict[str, Any], str]] = [
        ({"photo": [APPLE]}, "no column 'image'; it has 'photo': choose one of them as `image_column`"),
        ({"image": [5]}, "column image, row 0: an image is int, expected bytes or the name of a file"),
        ({"image": [{"data": APPLE}]}, "column image, row 0: an image has the fields 'data', expected bytes and path"),
        ({"image": [[1, 2]]}, "column image, row 0: an image is int"),
        ({"image": ["../x.png"]}, "column image, row 0: image '../x.png' is outside"),
    ]
    for columns, reason in bad:
        pq.write_table(pa.table(columns), file)
        with pytest.raises(VocabkitError) as caught:
            list(pictures_of(str(file)))
        assert str(caught.value).startswith(f"{file}: {reason}")
    for damaged in (b"", b"PAR1", file.read_bytes()[:-20], b"PAR1" + bytes(2000) + b"PAR1"):
        file.write_bytes(damaged)
        with pytest.raises(VocabkitError, match=r"a.parquet: can't read \("):
            list(pictures_of(str(file)))
    with pytest.raises(VocabkitError, match=r"none.parquet: no such file"):
        list(pictures_of(str(tmp_path / "none.parquet")))
