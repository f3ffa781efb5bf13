"""Files by URL: names, patterns and chains of fsspec, and what is said if a file can't be read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from picture_files import encoded

from vocabkit.data.pictures import BrokenImage, load_image
from vocabkit.data.samples import Picture
from vocabkit.data.sources import image_files, pictures_of, samples_of
from vocabkit.data.urls import UrlFile, each_file, is_url, last_name
from vocabkit.errors import VocabkitError, VocabkitWarning

APPLE, OWL = encoded(colour="red"), encoded(colour="blue")
ODD = ("a#1.png", "b?x.png", "c[1].png", "d*.png", "e{0..1}.png", "f %20 g.png")


@pytest.fixture
def odd(tmp_path: Path) -> str:
    """A folder of pictures with odd names, by its URL."""
    for name in ODD:
        (tmp_path / name).write_bytes(APPLE)
    return f"file://{tmp_path}"


@pytest.fixture
def archive(tmp_path: Path) -> str:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("a/1.png", "a/2.png", "README.txt"):
            file.writestr(name, OWL)
    return f"::file://{tmp_path}/a.zip"


def found(source: str) -> list[str]:
    """Keys of pictures, each of which can be opened."""
    pictures = list(pictures_of(source))
    for picture in pictures:
        load_image(picture)
    return [picture.key for picture in pictures]


def test_only_the_web_has_queries_and_fragments() -> None:
    assert last_name("https://example.com/a/b.tar?key=1#part") == "b.tar"
    assert last_name("s3://bucket/a#1.tar") == "a#1.tar"
    assert last_name("file:///a/b?c.png") == "b?c.png"
    assert last_name("simplecache::zip://a/b.png::https://example.com/c.zip?key=1") == "b.png"


def test_folder_by_url_holds_every_picture(odd: str) -> None:
    assert found(odd) == [f"{odd}/{name}" for name in ODD]


@pytest.mark.parametrize("name", ODD)
def test_file_that_exists_is_no_pattern(odd: str, name: str) -> None:
    assert each_file(f"{odd}/{name}") == [f"{odd}/{name}"]
    assert found(f"{odd}/{name}") == [f"{odd}/{name}"]


def test_chain_of_fsspec_is_a_url_and_keeps_its_links(archive: str) -> None:
    one, two = f"zip://a/1.png{archive}", f"zip://a/2.png{archive}"
    assert is_url(one)
    assert found(one) == [one]
    assert found(f"zip://{archive}") == found(f"zip://a{archive}") == found(f"zip://a/*.png{archive}") == [one, two]
    assert found(f"zip://a/{{1..2}}.png{archive}") == [one, two]


def test_cache_of_fsspec_is_a_link(odd: str) -> None:
    assert found(f"simplecache::{odd}/*[?#]*.png") == [f"simplecache::{odd}/a#1.png", f"simplecache::{odd}/b?x.png"]


def test_folder_of_images_tells_what_it_leaves_out(odd: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.parquet").touch()  # of the images
    (tmp_path / "README.md").touch()
    assert found(odd) == [f"{odd}/{name}" for name in ODD]
    (tmp_path / "1.tar").touch()
    (tmp_path / "2.parquet").touch()
    reason = "only its images are taken; name tars and Parquet files themselves: "
    with pytest.warns(VocabkitWarning, match=f"^{odd}: {reason}{odd}/1.tar and 1 more$"):
        assert found(odd) == [f"{odd}/{name}" for name in ODD]
    with pytest.warns(VocabkitWarning, match=f"^{tmp_path}: {reason}{tmp_path}/1.tar and 1 more$"):
        assert image_files(tmp_path) == [tmp_path / name for name in ODD]
    for name in ODD:
        (tmp_path / name).unlink()
    with pytest.raises(
        VocabkitError, match=r"no images in this folder; name tars and Parquet files themselves, or by \*"
    ):
        found(odd)


def test_picture_is_an_input_but_no_sample(tmp_path: Path) -> None:
    file = str(tmp_path / "a.png")
    Path(file).write_bytes(APPLE)
    assert found(file) == [file]
    with pytest.raises(VocabkitError, match=f"^{file}: a picture without a caption; name the file or dataset that has"):
        list(samples_of(file))


def test_missing_link_is_named(archive: str) -> None:
    for source in (f"zip://a/3.png{archive}", f"zip://a/1.png{archive}.no"):
        with pytest.raises(VocabkitError, match="no such file"):
            found(source)


class Web(MemoryFileSystem):
    """What fsspec's http does: any failure is a missing file, and a server may ignore ranges."""

    failure: Exception = ConnectionRefusedError("Cannot connect to host example.com")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def _open(self, path: str, *_: object, **__: object) -> object:
        raise FileNotFoundError(path) from self.failure

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        return b"the whole file"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> type[Web]:
    monkeypatch.setattr("vocabkit.data.urls._system", lambda url: (Web(), url))
    return Web


def test_failure_of_the_web_says_why(web: type[Web], monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://example.com/a.png"
    missing = OSError("404")
    missing.status = 404  # type: ignore[attr-defined] # as aiohttp has it
    for failure, reason in (
        (web.failure, r"can't read \('Cannot connect to host example.com'\)"),
        (FileNotFoundError(url), "no such file"),
        (missing, "no such file"),
    ):
        monkeypatch.setattr(web, "failure", failure)
        with pytest.raises(BrokenImage, match=f"^{url}: {reason}$"):
            load_image(Picture(url, UrlFile(url)))


@pytest.mark.usefixtures("web")
def test_server_that_ignores_ranges_is_found_out() -> None:
    url = "http://example.com/a.tar"
    with pytest.raises(
        VocabkitError, match="14 bytes came where 4 were asked for: this server sends no parts of files"
    ):
        UrlFile(url, 512, 516)()
    with pytest.raises(VocabkitError, match="14 bytes came where 20 were asked for: is the file truncated"):
        UrlFile(url, 512, 532)()
    assert UrlFile(url, 512, 526)() == b"the whole file"
