"""Reading LLaVA-Pretrain and LLaVA-Instruct."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from picture_files import record, write_records

from vocabkit.data.llava import llava_pictures, read_llava
from vocabkit.data.samples import Picture, Sample, Turn
from vocabkit.errors import VocabkitError

PRETRAIN = record("<image>\nDescribe it.", "a red apple", id="004539375", image="00453/004539375.jpg")
INSTRUCT = record("<image>\nWhat is it?", "An owl.", "Where?", "On a branch.", id="000000033471", image="coco/a.jpg")
TEXT_ONLY = record("Say hello.", "Hello.", id="wgByO4Y_0", model="")
TWO_IMAGES = record("<image> or", "what?", "<image>?", "The first.", id=7, image=["a.png", "b.png"])


def refusal(path: Path, image_folder: Path | None = None) -> str:
    with pytest.raises(VocabkitError) as caught:
        list(read_llava(path, image_folder))
    message = str(caught.value)
    assert message.isprintable()
    return message


@pytest.mark.parametrize("name", ["train.json", "train.jsonl"])
def test_record_becomes_a_sample_with_images_beside_the_file(tmp_path: Path, name: str) -> None:
    samples = list(read_llava(write_records(tmp_path / name, PRETRAIN, INSTRUCT, TEXT_ONLY, TWO_IMAGES)))
    assert samples == [
        Sample(
            id="004539375",
            images=(Picture("00453/004539375.jpg", tmp_path / "00453/004539375.jpg"),),
            turns=(Turn("<image>\nDescribe it.", "a red apple"),),
        ),
        Sample(
            id="000000033471",
            images=(Picture("coco/a.jpg", tmp_path / "coco/a.jpg"),),
            turns=(Turn("<image>\nWhat is it?", "An owl."), Turn("Where?", "On a branch.")),
        ),
        Sample(id="wgByO4Y_0", images=(), turns=(Turn("Say hello.", "Hello."),), extra={"model": ""}),
        Sample(
            id="7",
            images=(Picture("a.png", tmp_path / "a.png"), Picture("b.png", tmp_path / "b.png")),
            turns=(Turn("<image> or", "what?"), Turn("<image>?", "The first.")),
        ),
    ]


def test_image_folder_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (sample,) = read_llava(write_records(tmp_path / "a.json", PRETRAIN), tmp_path / "images")
    assert sample.images[0].source == tmp_path / "images" / "00453" / "004539375.jpg"
    message = refusal(tmp_path / "a.json", tmp_path / "absent")
    assert message == f"{tmp_path / 'absent'}: no such folder; it should hold the images"


def test_compressed_files_are_read(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.jsonl", PRETRAIN, INSTRUCT)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_llava(packed)) == list(read_llava(path))


def test_samples_are_streamed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{json.dumps(PRETRAIN)}," + f"\n{json.dumps(INSTRUCT)}," * 20_000 + " and then no JSON")
    samples = read_llava(path)
    assert next(samples).id == PRETRAIN["id"]
    with pytest.raises(VocabkitError, match="record 20002: not valid JSON"):
        list(samples)


def test_sample_pickles(tmp_path: Path) -> None:
    (sample,) = read_llava(write_records(tmp_path / "a.json", TEXT_ONLY))
    assert pickle.loads(pickle.dumps(sample)) == sample


def test_record_without_id_is_named_by_its_position(tmp_path: Path) -> None:
    del (content := record("Hi.", "Hello."))["id"]
    assert [sample.id for sample in read_llava(write_records(tmp_path / "a.json", content, content))] == [
        "record 1",
        "record 2",
    ]


def test_unpaired_first_answer_and_last_question_are_dropped(tmp_path: Path) -> None:
    content = record("Hi.", "Hello.", "Bye?")
    content["conversations"].insert(0, {"from": "gpt", "value": "Ready."})
    (sample,) = read_llava(write_records(tmp_path / "a.json", content))
    assert sample.turns == (Turn("Hi.", "Hello."),)


# ---- what is refused ---------------------------------------------------------------------------------------------


def said(*roles: str) -> list[dict[str, str]]:
    return [{"from": role, "value": "words"} for role in roles]


MALFORMED: dict[str, tuple[Any, str]] = {
    "no object": ("words", "not a record of LLaVA"),
    "no conversation": ({"id": "1", "image": "a.png"}, "missing required field `conversations`"),
    "conversation of another form": ({"conversations": {"human": "a"}}, "not a conversation between human and gpt"),
    "no value": ({"conversations": [{"from": "human"}]}, "missing required field `value`"),
    "value of another type": ({"conversations": [{"from": "human", "value": 7}]}, "Expected `str`, got `int`"),
    "unknown role": ({"conversations": said("user", "assistant")}, "Invalid enum value 'user'"),
    "two questions": ({"conversations": said("human", "human", "gpt")}, "human speaks twice in a row"),
    "two answers": ({"conversations": said("human", "gpt", "gpt")}, "gpt speaks twice in a row"),
    "image of another type": (record("<image>", "a", image=7), "Expected `str | array | null`, got `int`"),
    "half a surrogate pair": (record("What?", "\ud83d"), "half a surrogate pair"),
    "control characters": (record("a\nb\x1b[31m", "c", id={"\x1b": 1}), "not a record of LLaVA"),
}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (record("What?", "a", image="a.png"), "0 <image> in the questions, but 1 images"),
        (record("<image>?", "a"), "1 <image> in the questions, but 0 images"),
        (record("What?", "<image>", image="a.png"), "0 <image> in the questions, but 1 images"),
        (record("<image>", "a", image=["a.png", "b.png"]), "1 <image> in the questions, but 2 images"),
        (record("<image><image>", "a", image=["a.png", "b.png"]), None),
    ],
)
def test_record_with_another_number_of_placeholders_says_so(
    tmp_path: Path, content: dict[str, Any], problem: str | None
) -> None:
    one, other = read_llava(write_records(tmp_path / "a.json", PRETRAIN, content))
    assert one.problem is None
    assert other.problem == (problem and f"{problem}; expected one for each")


@pytest.mark.parametrize("conversation", [[], said("human"), said("gpt")])
def test_record_without_an_answer_says_so(tmp_path: Path, conversation: list[dict[str, str]]) -> None:
    content = {"image": "a.png", "conversations": conversation}
    one, other = read_llava(write_records(tmp_path / "a.json", PRETRAIN, content))
    assert one.problem is None
    assert other.problem == "no question with an answer in the conversation"


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize(("name", "place"), [("a.json", "record 2"), ("a.jsonl", "line 2")])
def test_malformed_record_raises_with_its_position(tmp_path: Path, case: str, name: str, place: str) -> None:
    content, problem = MALFORMED[case]
    path = write_records(tmp_path / name, PRETRAIN, content)
    message = refusal(path)
    assert message.startswith(f"{path}: {place}: ")
    assert problem in message


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.png", "b/../../a.png", "..", ".", "", "b/..", "a\0.png", "\udcff.png", "//a.png"]
)
def test_image_outside_its_folder_raises(tmp_path: Path, name: str) -> None:
    (tmp_path / "images").mkdir()
    path = write_records(tmp_path / "a.json", record("<image>", "a", image=name))
    assert refusal(path, tmp_path / "images").startswith(f"{path}: record 1: image ")


def test_symbolic_link_out_of_the_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "same.png").symlink_to("a.png")
    (tmp_path / "disk" / "etc").symlink_to("/etc")
    within = write_records(tmp_path / "a.json", record("<image>", "a", image="same.png"))
    (sample,) = read_llava(within, tmp_path / "images")
    assert sample.images[0].source == tmp_path / "images" / "same.png"
    outside = write_records(tmp_path / "b.json", record("<image>", "a", image="etc/passwd"))
    problem = f"image 'etc/passwd' is outside {tmp_path / 'images'}; copy it there, or name another folder"
    assert refusal(outside, tmp_path / "images") == f"{outside}: record 1: {problem}"


def test_absolute_name_inside_its_folder_is_told_as_such(tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.json", record("<image>", "a", image=str(tmp_path / "b" / "a.png")))
    assert refusal(path) == (
        f"{path}: record 1: image '{tmp_path}/b/a.png' is an absolute path; name it as in {tmp_path}: 'b/a.png'"
    )


def test_pictures_need_no_conversation(tmp_path: Path) -> None:
    path = write_records(
        tmp_path / "a.json", {"image": "a.png"}, {"image": ["b.png", "c.png"], "conversations": []}, {}
    )
    assert [picture.key for picture in llava_pictures(path)] == ["a.png", "b.png", "c.png"]


def test_device_or_pipe_raises(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.json") == f"{tmp_path / 'absent.json'}: no such file"
    assert "is a folder" in refusal(tmp_path)
