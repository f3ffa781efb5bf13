"""Tars of pictures and captions, local and by URL: what real programs and strangers put into them."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
from picture_files import encoded

from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import Sample, Turn
from vocabkit.data.sources import Columns, pictures_of, samples_of
from vocabkit.errors import VocabkitError

APPLE, OWL = encoded(colour="red"), encoded(colour="blue")


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar(file: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    with tarfile.open(file, "w") as writer:
        for info, content in members:
            writer.addfile(info, io.BytesIO(content))
    return str(file)


def by_url(file: str, memory: str) -> str:
    """The same tar in fsspec's memory."""
    memory = re.sub(r"\W+", "-", memory)
    fsspec.filesystem("memory").pipe_file(f"/{memory}/{Path(file).name}", Path(file).read_bytes())
    return f"memory://{memory}/{Path(file).name}"


@pytest.fixture
def birds(tmp_path: Path) -> str:
    said = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "an owl"}]
    return tar(
        tmp_path / "birds.tar",
        member("./", type=tarfile.DIRTYPE),
        member("README.txt", b"of birds"),
        member("./1.png", APPLE),
        member("1.txt", b"an apple\n"),
        member("1.pkl", b"cos\nsystem\n(S'false'\ntR."),
        member("a/2.jpg", OWL),
        member("a/2.json", json.dumps({"conversations": said, "licence": "x"}).encode()),
    )


def colours(source: str) -> list[tuple[str, tuple[int, ...]]]:
    found = [(picture.key, load_image(picture).getpixel((0, 0))) for picture in pictures_of(source)]
    return [(key, colour) for key, colour in found if isinstance(colour, tuple)]


@pytest.mark.parametrize("remote", [False, True])
def test_pictures_are_named_by_tar_and_member(birds: str, remote: bool, request: pytest.FixtureRequest) -> None:
    source = by_url(birds, request.node.name) if remote else birds
    assert colours(source) == [("birds.tar/1.png", (255, 0, 0)), ("birds.tar/a/2.jpg", (0, 0, 255))]


@pytest.mark.parametrize("remote", [False, True])
def test_files_with_one_name_are_a_sample(birds: str, remote: bool, request: pytest.FixtureRequest) -> None:
    source = by_url(birds, request.node.name) if remote else birds
    one, two = samples_of(source)
    assert (one.id, one.turns) == ("birds.tar/1", (Turn("<image>", "an apple"),))
    assert two == Sample("birds.tar/a/2", two.images, (Turn("<image> What?", "an owl"),), two.extra)
    assert two.extra["licence"] == "x"
    assert [picture.key for sample in (one, two) for picture in sample.images] == [key for key, _ in colours(source)]
    assert load_image(two.images[0]).getpixel((0, 0)) == (0, 0, 255)


def test_caption_is_taken_from_the_column_then_txt_then_caption(tmp_path: Path) -> None:
    texts = {"caption": "short", "long": "at length"}
    parts = [member("1.png", APPLE), member("1.json", json.dumps(texts).encode())]
    both = [*parts, member("1.txt", b"of the file")]

    def caption(*members: tuple[tarfile.TarInfo, bytes], column: str = "text") -> str:
        (sample,) = samples_of(tar(tmp_path / "a.tar", *members), columns=Columns(text=column))
        return sample.turns[0].answer

    assert caption(*parts) == "short"
    assert caption(*both) == "of the file"
    assert caption(*both, column="long") == "at length"


def samples(file: Path, *members: tuple[tarfile.TarInfo, bytes]) -> list[tuple[str, list[str], str]]:
    """Name, pictures and caption of each sample of a tar with these files."""
    return [
        (sample.id, [picture.key for picture in sample.images], sample.turns[0].answer)
        for sample in samples_of(tar(file, *members))
    ]


def test_name_ends_at_the_first_dot_and_case_of_the_rest_does_not_matter(tmp_path: Path) -> None:
    files = [member("1.PNG", APPLE), member("1.seg.png", OWL), member("1.Txt", b"an apple"), member("1.v2.txt", b"no")]
    assert samples(tmp_path / "a.tar", *files) == [("a.tar/1", ["a.tar/1.PNG"], "an apple")]
    with pytest.raises(
        VocabkitError, match=r"'1': no picture: its name ends at the first dot, and 'v2.jpg' is no format"
    ):
        samples(tmp_path / "a.tar", member("1.v2.jpg", APPLE), member("1.v2.txt", b"an apple"))


def test_files_whose_name_begins_with_a_dot_belong_to_no_sample(tmp_path: Path) -> None:
    files = [member(name, content) for name, content in (("._1.png", b"of macOS"), ("1.png", APPLE))]
    files += [
        member("._1.txt", b"of macOS"),
        member("1.txt", b"an apple"),
        member(".a.png", OWL),
        member(".txt", b"no"),
    ]
    assert samples(tmp_path / "a.tar", *files) == [("a.tar/1", ["a.tar/1.png"], "an apple")]


@pytest.mark.parametrize("remote", [False, True])
def test_nothing_of_a_sample_is_overwritten_or_merged(
    tmp_path: Path, remote: bool, request: pytest.FixtureRequest
) -> None:
    one = [member("1.png", APPLE), member("1.txt", b"an apple")]
    two = [member("2.png", OWL), member("2.txt", b"an owl")]
    for members, reason in (
        ([*one, member("1.png", OWL)], "holds '1.png' twice; write it again with one of them"),
        ([*one, member("1.txt", b"an owl")], "holds '1.txt' twice"),
        ([*one, member("1.TXT", b"an owl")], "holds '1.TXT' twice"),
        ([*one, *two, member("1.jpg", OWL)], "'1': its files are apart; write the tar again, with --sort=name"),
    ):
        file = tar(tmp_path / "a.tar", *members)
        source = by_url(file, request.node.name) if remote else file
        with pytest.raises(VocabkitError) as caught:
            list(samples_of(source))
        assert str(caught.value).startswith(f"{source}: {reason}")


@pytest.mark.parametrize("remote", [False, True])
def test_tars_joined_by_cat_are_refused(birds: str, remote: bool, request: pytest.FixtureRequest) -> None:
    Path(birds).write_bytes(Path(birds).read_bytes() + bytes(1 << 17))
    padded = by_url(birds, request.node.name) if remote else birds
    assert len(list(pictures_of(padded))) == len(list(samples_of(padded))) == 2
    Path(birds).write_bytes(Path(birds).read_bytes() * 2)
    source = by_url(birds, request.node.name) if remote else birds
    for read in (pictures_of, samples_of):
        with pytest.raises(VocabkitError) as caught:
            list(read(source))
        assert str(caught.value) == (
            f"{source}: goes on after its end, as tars joined by cat do; join them with tar --concatenate"
        )


def test_blank_caption_leaves_a_sample_out(tmp_path: Path) -> None:
    source = tar(
        tmp_path / "a.tar",
        *(member(name, content) for name, content in (("1.png", APPLE), ("1.txt", b" \n"), ("2.png", OWL))),
        *(member("2.txt", b""), member("2.json", b'{"text": " ", "caption": "an owl"}')),
    )
    blank, owl = samples_of(source)
    assert blank.problem == "no text in its caption or answers"
    assert (owl.turns[0].answer, owl.problem) == ("an owl", None)


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_every_format_of_gnu_tar(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / f"{'long' * 20}.png").write_bytes(APPLE)
    (folder / "caf\udce9.png").write_bytes(OWL)  # a name in Latin-1
    subprocess.run(
        ["tar", f"--format={form}", "--sort=name", "-cf", "a.tar", "-C", "in", "."], cwd=tmp_path, check=True
    )
    keys = [key for key, _ in colours(str(tmp_path / "a.tar"))]
    assert keys == ["a.tar/caf\\udce9.png", f"a.tar/{'long' * 20}.png"]


def test_patterns_name_many(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for number in range(3):
        file = tar(tmp_path / f"s-{number:02d}.tar", member("1.png", APPLE))
        by_url(file, request.node.name)
    for folder in (str(tmp_path), f"memory://{request.node.name}"):
        for pattern, count in (("s-{00..02}.tar", 3), ("s-{01..02}.tar", 2), ("s-*.tar", 3), ("s-0[02].tar", 2)):
            assert len({picture.key for picture in pictures_of(f"{folder}/{pattern}")}) == count
        with pytest.raises(VocabkitError, match=r"no file matches this pattern"):
            pictures_of(f"{folder}/t-*.tar")
        with pytest.raises(VocabkitError, match=r"s-03.tar: no such file"):
            list(pictures_of(f"{folder}/s-{{02..03}}.tar"))
    with pytest.raises(VocabkitError, match=r"\{0..9999999\} names no files, or more than 1,000,000"):
        pictures_of("s-{0..9999999}.tar")
    (tmp_path / "odd[1]{0..1}.tar").write_bytes(Path(file).read_bytes())
    assert len(list(pictures_of(str(tmp_path / "odd[1]{0..1}.tar")))) == 1


@pytest.mark.parametrize("remote", [False, True])
def test_what_is_no_file_is_a_broken_picture(tmp_path: Path, remote: bool, request: pytest.FixtureRequest) -> None:
    sparse = member("hole.png", type=tarfile.GNUTYPE_SPARSE)
    file = tar(
        tmp_path / "a.tar",
        member("../../etc/x.png", APPLE),
        member("link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.png", type=tarfile.LNKTYPE, linkname="../../etc/x.png"),
        member("device.png", type=tarfile.CHRTYPE),
        sparse,
        member("._1.png", b"of macOS"),
    )
    found = list(pictures_of(by_url(file, request.node.name) if remote else file))
    assert [picture.key for picture in found] == [
        f"a.tar/{name}" for name in ("../../etc/x.png", "link.png", "hard.png", "device.png", "hole.png")
    ]
    load_image(found[0])
    for picture, kind in zip(found[1:], ["a link", "a link", "not a file", "a sparse file"], strict=True):
        with pytest.raises(BrokenImage, match=rf"{picture.key}: is {kind} in the tar; put its content there"):
            load_image(picture)


def header(name: str, **fields: Any) -> bytes:
    info, _ = member(name, **fields)
    return info.tobuf(tarfile.GNU_FORMAT)


def damaged(birds: str) -> dict[str, bytes]:
    whole = Path(birds).read_bytes()
    negative = bytearray(header("n.png"))
    negative[124:136] = b"\xff" * 8 + (-1024).to_bytes(4, "big", signed=True)
    negative[148:156] = b" " * 8
    negative[148:156] = b"%06o\0 " % sum(negative)
    pax = header("p", type=b"x", size=12) + b"12 size=-512\n"[:12].ljust(512, b"\0")
    return {
        "empty": b"",
        "cut in a header": whole[:1700],
        "cut in a picture": whole[: whole.index(APPLE) + 20],
        "noise": bytes(range(256)) * 8,
        "a picture": APPLE,
        "gzip": b"\x1f\x8b" + whole,
        "huge": header("huge.png", size=1 << 40) + APPLE,
        "huge header": header("p", type=b"x", size=1 << 60) + APPLE,
        "negative": bytes(negative) + bytes(2048),
        "backwards": header("1.png") + pax + header("2.png") + header("3.png") + bytes(2048),
        "deep": (header("p", type=b"x", size=8) + b"8 a=bcd\n".ljust(512, b"\0")) * 3000,
        "twice": header("1.png") * 2 + bytes(1024),
    }


@pytest.mark.parametrize("kind", [
    "empty", "cut in a header", "cut in a picture", "noise", "a picture", "gzip", "huge", "huge header", "negative",
    "backwards", "deep", "twice",
])  # fmt: skip
@pytest.mark.parametrize("remote", [False, True])
def test_damaged_tar_raises_one_line(
    birds: str, tmp_path: Path, kind: str, remote: bool, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "bad.tar").write_bytes(damaged(birds)[kind])
    file = str(tmp_path / "bad.tar")
    source = by_url(file, request.node.name) if remote else file
    with pytest.raises(VocabkitError) as caught:
        list(pictures_of(source))
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert message.isprintable()
    assert ("holds '1.png' twice" if kind == "twice" else "not a plain tar, or damaged or truncated") in message


def test_bad_captions_are_named(tmp_path: Path) -> None:
    for name, content, reason in (
        ("1.txt", b"\xff", "its text is damaged"),
        ("1.json", b"[]", "its text is damaged"),
        ("1.json", b'{"text": 5}', "not a conversation"),
        ("1.cls", b"3", "no caption: no .txt, and no text, caption or conversations in a .json"),
    ):
        source = tar(tmp_path / "a.tar", member("1.png", APPLE), member(name, content))
        with pytest.raises(VocabkitError, match=f"'1': {reason}"):
            list(samples_of(source))


def test_other_refusals(tmp_path: Path) -> None:
    for source, reason in (
        ("a.tar.gz", "is compressed; unpack it to a plain .tar first"),
        ("none.tar", "no such file"),
        ("memory://none/a.tar", "no such file"),
        ("memory://none/folder", "not found: no file, and no folder with files"),
        ("memory://none/a.json", "LLaVA files are read from a disk"),
        ("bogus://a/b.png", "can't read ('Protocol not known: bogus')"),
        ("bogus://a/b.tar", "can't read ('Protocol not known: bogus')"),
    ):
        with pytest.raises(VocabkitError) as caught:
            list(pictures_of(source))
        assert str(caught.value).startswith(f"{source}: {reason}")
