"""Names, paths and hub ids resolve to vocabularies, in that order, and say where they were found."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hub_server import (
    BAD_TOKEN,
    CUT,
    GATED,
    UNAUTHORIZED,
    HubServer,
    resolve_in_child,
)
from tokenizer_files import (
    BYTE_PIECES,
    CONTROL,
    NORMAL,
    UNKNOWN,
    added_token,
    bpe_json,
    gguf_file,
    gguf_tokenizer,
    rank_file,
    real,
    sentencepiece_model,
    tekken_json,
    write_json,
)

from vocabkit.errors import VocabkitError
from vocabkit.tokenizer import snapshot
from vocabkit.tokenizer.catalog import (
    catalog,
    local_origin,
    read_source,
    resolve,
    resolve_again,
    sha256,
    snapshot_path,
)
from vocabkit.tokenizer.read import BESIDE, FOLDER_FILES, read
from vocabkit.tokenizer.segmenter import Segmenter
from vocabkit.tokenizer.snapshot import Provenance
from vocabkit.tokenizer.special_tokens import with_roles
from vocabkit.tokenizer.vocabulary import Kind, Vocabulary

SIZES = {
    "qwen2": (151_646, None, None),
    "qwen2.5": (151_665, None, None),
    "qwen3": (151_669, None, None),
    "llama3": (128_256, None, None),
    "llama3.1": (128_256, None, None),
    "llama3.2": (128_256, None, None),
    "llama3.3": (128_256, None, None),
    "llama4": (202_048, None, None),
    "gemma3": (262_144, None, None),
    "smollm2": (49_152, None, None),
    "mistral": (131_072, None, None),
    "mistral-tekken": (131_072, None, None),
    "mistral-v1": (32_000, None, None),
    "mistral-v2": (32_768, None, None),
    "mistral-v3": (32_768, None, None),
    "qwen2-0.5b": (151_646, 151_936, 896),
    "qwen2-7b": (151_646, 152_064, 3584),
    "qwen2.5-7b": (151_665, 152_064, 3584),
    "qwen2.5-14b": (151_665, 152_064, 5120),
    "llama3-8b": (128_256, 128_256, 4096),
    "smollm2-135m": (49_152, 49_152, 576),
    "gemma3-270m": (262_144, 262_144, 640),
}
"""Name -> ids, rows and width of the embedding table."""

TOKENIZER = bpe_json(["a", "b", "ab", "<s>"], added=[added_token(3, "<s>", special=True)])
PIECES = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("a", NORMAL), ("▁a", NORMAL), *BYTE_PIECES]


def spellings(vocabulary: Vocabulary, first: int) -> list[str]:
    """Spellings of all ids from `first`."""
    return [token.decode() for token in vocabulary.tokens.to_pylist()[first:]]


def in_one_line(error: pytest.ExceptionInfo[VocabkitError]) -> str:
    """The message, which must stand on one line."""
    message = str(error.value)
    assert message.isprintable()
    return message


# ---- names -------------------------------------------------------------------------------------------------------


def test_other_names_are_models_with_row_for_each_id() -> None:
    sizes = {name: len(resolve(entry.snapshot).vocabulary) for name, entry in catalog().items() if name not in SIZES}
    assert len(sizes) > 25
    for name, size in sizes.items():
        rows, width = catalog()[name].embedding_rows, catalog()[name].width
        assert rows is not None
        assert rows >= size
        assert width in {640, 896, *range(960, 16385, 64)}


def test_gemma3_with_vision_has_the_token_that_stands_for_a_picture() -> None:
    """Its text models have the same ids, but for this one (transformers, Gemma3Config.image_token_index)."""
    text, vision = resolve("gemma3-1b").vocabulary, resolve("gemma3-12b").vocabulary
    assert "image" not in text.roles
    assert vision.roles == {**text.roles, "image": 262144}
    assert (len(vision), vision.token(262144), vision.embedding_rows) == (262145, b"<image_soft_token>", 262208)
    assert vision.tokens.slice(0, 262144).equals(text.tokens)
    assert Segmenter(vision).ids(b" a cat") == Segmenter(text).ids(b" a cat")


@pytest.mark.parametrize("name", SIZES)
def test_each_name_resolves_to_its_vocabulary_and_says_from_where(name: str) -> None:
    found, entry = resolve(name), catalog()[name]
    vocabulary = found.vocabulary
    assert (len(vocabulary), vocabulary.embedding_rows, vocabulary.width) == SIZES[name]
    assert vocabulary.name == name
    package = f"{entry.provenance.package} {entry.provenance.version}"
    assert found.how == f"catalog, snapshot {entry.snapshot} made from {package}"
    assert vocabulary.source == package
    assert found.file == snapshot_path(entry.snapshot)


def test_names_resolve_without_network_and_without_hub_library() -> None:
    code = """
import socket, sys
def refuse(*args, **options): raise AssertionError("a socket")
socket.socket = refuse
from vocabkit.tokenizer.catalog import catalog, resolve
for name in catalog(): resolve(name)
assert not {"huggingface_hub", "tokenizers", "torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_names_ignore_case() -> None:
    assert resolve("Qwen2.5-7B").vocabulary.fingerprint == resolve("qwen2.5-7b").vocabulary.fingerprint


def test_model_is_its_familys_vocabulary_with_size_of_its_embedding_table() -> None:
    for entry in (entry for entry in catalog().values() if not entry.added):
        assert resolve(entry.name).vocabulary.fingerprint == resolve(entry.snapshot).vocabulary.fingerprint


def test_llama_3_2_has_tokenizer_of_3_1_which_gives_other_roles_than_that_of_3() -> None:
    three, one, two = (resolve(name).vocabulary for name in ("llama3", "llama3.1", "llama3.2"))
    assert one.fingerprint == two.fingerprint
    assert three.tokens[:128_000].equals(one.tokens[:128_000])
    assert "pad" not in three.roles
    assert spellings(one, one.roles["pad"])[0] == "<|finetune_right_pad_id|>"
    assert one.roles["message_end"] == 128_008


def test_mistral_is_tekken_tokenizer() -> None:
    assert resolve("mistral").vocabulary.fingerprint == resolve("mistral-tekken").vocabulary.fingerprint


def test_unknown_name_raises_with_near_names() -> None:
    with pytest.raises(
        VocabkitError, match=r"'qwen-2\.5' not found: not a file, catalog name or hub id .*qwen2\.5"
    ) as error:
        resolve("qwen-2.5")
    in_one_line(error)
    with pytest.raises(VocabkitError, match="llama3"):
        resolve("lama3")
    with pytest.raises(VocabkitError, match="`vocabkit catalog` lists the names"):
        resolve("zzzzzzzz")


@pytest.mark.parametrize("argument", ["", "x" * 5000, "\0", "\n\x1b[31m", "~nobody-of-this-name/x", "a/b/c"])
def test_invalid_name_raises_on_one_line(argument: str) -> None:
    with pytest.raises(VocabkitError) as error:
        resolve(argument)
    assert len(in_one_line(error)) < 300


def test_equals_sign_gives_name(tmp_path: Path) -> None:
    mine = resolve("mine=qwen2-7b")
    assert mine.vocabulary.name == "mine"
    assert mine.how == resolve("qwen2-7b").how
    assert mine.vocabulary.embedding_rows == 152_064
    write_json(tmp_path / "tokenizer.json", TOKENIZER)
    assert resolve(f"other={tmp_path}").vocabulary.name == "other"
    for half in ("=qwen2", "mine="):
        with pytest.raises(VocabkitError, match="expected NAME=TOKENIZER"):
            resolve(half)


# ---- facts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
@pytest.mark.usefixtures("sources")
def test_table_size_matches_model_file(name: str) -> None:
    entry = catalog()[name]
    model = real(entry.snapshot)  # tests/readers compares its size with what the `gguf` package says
    assert (entry.width, entry.embedding_rows) == (model.width, model.embedding_rows)


def test_table_has_row_for_each_id() -> None:
    for entry in catalog().values():
        if entry.embedding_rows is not None:
            assert entry.embedding_rows >= len(resolve(entry.name).vocabulary)


QWEN2 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN2_5_TEXT = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
QWEN2_5_TEXT += ["<|repo_name|>", "<|file_sep|>"]
QWEN3_TEXT = ["<tool_response>", "</tool_response>", "<think>", "</think>"]


@pytest.mark.parametrize(
    ("name", "last", "text"),
    [("qwen2", 151_645, []), ("qwen2.5", 151_664, QWEN2_5_TEXT), ("qwen3", 151_668, QWEN2_5_TEXT + QWEN3_TEXT)],
)
def test_what_qwen_adds_after_its_ranks_is_special_or_text(name: str, last: int, text: list[str]) -> None:
    vocabulary = resolve(name).vocabulary
    added = spellings(vocabulary, 151_643)
    assert added[:3] == QWEN2
    assert len(vocabulary) - 1 == last
    is_text = (vocabulary.kinds[151_643:] == Kind.TEXT).tolist()
    assert [spelling for spelling, text in zip(added, is_text, strict=True) if text] == text
    assert vocabulary.roles["turn_end"] == 151_645


def test_gemmas_image_marks_are_special_as_publisher_has_them() -> None:
    """The GGUF that the snapshot is made of marks them as text."""
    vocabulary = resolve("gemma3").vocabulary
    assert (vocabulary.roles["image_start"], vocabulary.roles["image_end"]) == (255_999, 256_000)
    assert vocabulary.token(255_999) == b"<start_of_image>"
    assert vocabulary.kinds[255_999] == vocabulary.kinds[256_000] == Kind.SPECIAL


def test_llama_3_has_256_special_tokens_after_its_ranks() -> None:
    for name in ("llama3", "llama3.1"):
        kinds = resolve(name).vocabulary.kinds
        assert (kinds[:128_000] == Kind.TEXT).all()
        assert (kinds[128_000:] > Kind.BYTE).all()


# ---- paths -------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A tokenizer in each form that may lie on the disk."""
    folders = {name: tmp_path / name for name in ("json", "tekken", "pieces", "ranks", "meta", "gguf", "snapshot")}
    for folder in folders.values():
        folder.mkdir()
    (folders["meta"] / "original").mkdir()
    write_json(folders["json"] / "tokenizer.json", TOKENIZER)
    write_json(folders["tekken"] / "tekken.json", tekken_json([bytes([i]) for i in range(256)]))
    (folders["pieces"] / "tokenizer.model").write_bytes(sentencepiece_model(PIECES))
    (folders["ranks"] / "qwen.tiktoken").write_bytes(rank_file([b"a", b"b"]))
    (folders["meta"] / "original" / "tokenizer.model").write_bytes(rank_file([b"a", b"b"]))
    (folders["gguf"] / "model.gguf").write_bytes(gguf_file(gguf_tokenizer(PIECES)))
    snapshot.write(folders["snapshot"] / "mine.arrow", read(folders["json"]), Provenance("tokenizer.json", "0" * 64))
    return folders


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("json", "tokenizer.json"),
        ("tekken", "tekken.json"),
        ("pieces", "tokenizer.model"),
        ("ranks", "qwen.tiktoken"),
        ("meta", "original/tokenizer.model"),
        ("gguf", "model.gguf"),
    ],
)
def test_folder_resolves_to_its_tokenizer(files: dict[str, Path], folder: str, file: str) -> None:
    whole, single = resolve(str(files[folder])), resolve(str(files[folder] / file))
    assert whole.vocabulary.fingerprint == single.vocabulary.fingerprint
    assert whole.vocabulary.name == folder
    for found in (whole, single):
        assert found.file == files[folder] / file
        assert found.how == f"local file {files[folder] / file}"


def test_snapshot_path_resolves(files: dict[str, Path]) -> None:
    path = files["snapshot"] / "mine.arrow"
    assert resolve(str(path)).how == f"local file {path}"
    assert resolve(str(path)).vocabulary.fingerprint == read(files["json"]).fingerprint


def test_path_takes_precedence_over_name_and_says_so(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files["json"])
    Path("llama3").mkdir()
    shutil.copy("tokenizer.json", "llama3")
    found = resolve("llama3")
    assert len(found.vocabulary) == 4
    assert found.how == "local file llama3/tokenizer.json; a path goes before the catalog name llama3"
    Path("llama3/tokenizer.json").unlink()
    with pytest.raises(
        VocabkitError, match=r"no tokenizer in this folder.* a path goes before the catalog name llama3"
    ):
        resolve("llama3")


def test_path_with_equals_sign_is_path(files: dict[str, Path]) -> None:
    path = files["json"].rename(files["json"].with_name("a=b"))
    assert resolve(str(path)).vocabulary.name == "a=b"
    assert resolve(f"c={path}").vocabulary.name == "c"


def test_folder_with_several_gguf_files_asks_which(files: dict[str, Path]) -> None:
    shutil.copy(files["gguf"] / "model.gguf", files["gguf"] / "other.gguf")
    with pytest.raises(VocabkitError, match="2 GGUF files; name one of them"):
        resolve(str(files["gguf"]))


def test_vocabulary_is_found_again_where_it_was_by_its_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the current folder, or beside the file that names it; roles that its user gave count."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder, content in ((here, bpe_json(["a"])), (there, TOKENIZER)):
        (folder / "mine").mkdir(parents=True)
        write_json(folder / "mine" / "tokenizer.json", content)
    monkeypatch.chdir(here)
    for folder in (here, there):
        found = resolve_again("mine", read(folder / "mine").fingerprint, there)
        assert found is not None
        assert found.file.resolve() == folder / "mine" / "tokenizer.json"
    wanted = with_roles(read(there / "mine"), {"image": "<s>"}).fingerprint
    assert resolve_again("mine", wanted, there) is None
    assert resolve_again("mine", wanted, there, {"image": "<s>"}) is not None
    assert resolve_again("mine", wanted, here, {"image": "<s>"}) is None
    assert local_origin("mine/tokenizer.json", there) == Path("mine/tokenizer.json")
    for origin in ("other", "hub:owner/name", str(there / "mine"), None):
        assert local_origin(origin, there) is None


def test_lora_weights_without_a_tokenizer_have_that_of_their_llm(files: dict[str, Path], tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    lora.mkdir()
    write_json(lora / "adapter_config.json", {"base_model_name_or_path": str(files["json"])})
    assert resolve(str(lora)).file == files["json"] / "tokenizer.json"
    write_json(lora / "tokenizer.json", bpe_json(["own"]))
    assert resolve(str(lora)).file == lora / "tokenizer.json"


# ---- the hub -----------------------------------------------------------------------------------------------------

OLD = "meta-llama/Meta-Llama-3-8B"
"""A repository whose vocabulary the catalog has."""


PIECES = [("<unk>", 2), ("▁a", 1), ("b", 1)]
OWN_IDS = {"b": 0, "<unk>": 1, "▁a": 2}
"""The ids of the pieces, in a vocab.json beside the SentencePiece model."""


def repositories() -> dict[str, dict[str, bytes] | tuple[int, dict[str, str]]]:
    """What the hub of these tests holds."""
    weights = {"model.safetensors": b"weights", "pytorch_model.bin": b"weights", "model.gguf": b"GGUF"}
    tokenizer = {
        "tokenizer.json": msgspec.json.encode(TOKENIZER),
        "tokenizer_config.json": b'{"bos_token": "<s>"}',
        "config.json": b'{"vocab_size": 64, "hidden_size": 8}',
    }
    return {
        "org/whole": {**tokenizer, **weights},
        "org/bare": {"tokenizer.json": tokenizer["tokenizer.json"]},
        "org/tekken": {"tekken.json": msgspec.json.encode(tekken_json([b"a", b"b"])), **weights},
        "org/marian": {"source.spm": sentencepiece_model(PIECES), "vocab.json": msgspec.json.encode(OWN_IDS)},
        "org/meta": {"original/tokenizer.model": rank_file([b"a", b"b"]), **weights},
        "org/weights-only": weights,
        "org/damaged": {"tokenizer.json": b'{"model": '},
        "org/cut": {"tokenizer.json": tokenizer["tokenizer.json"] + CUT},
        "org/gated": GATED,
        "org/private": UNAUTHORIZED,
        "org/bad-token": BAD_TOKEN,
        "org/forbidden": (403, {}),
        "org/moved": (404, {}),
        "org/broken": (501, {}),
        "org/without-main": (404, {"X-Error-Code": "RevisionNotFound"}),
        OLD: GATED,
    }


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(repositories()) as server:
        yield server


def test_hub_id_downloads_tokenizer_files_only(hub: HubServer, tmp_path: Path) -> None:
    (found,) = resolve_in_child(["org/whole"], tmp_path / "home", HF_ENDPOINT=hub.url)
    write_json(tmp_path / "tokenizer.json", TOKENIZER)
    (tmp_path / "tokenizer_config.json").write_bytes(b'{"bos_token": "<s>"}')
    assert found == {
        "how": "Hugging Face hub, org/whole/tokenizer.json at 0123456",
        "name": "whole",
        "fingerprint": read(tmp_path).fingerprint,
        "roles": {"bos": 3},
        "size": [64, 8],
    }
    assert hub.files_asked("org/whole") == ["tokenizer.json", *BESIDE]
    assert not [path for _, path in hub.asked if "model" in path]


def test_repository_without_tokenizer_json_is_asked_for_other_formats(hub: HubServer, tmp_path: Path) -> None:
    arguments = ["org/tekken", "org/meta", "mine=org/bare", "org/weights-only"]
    tekken, meta, bare, none = resolve_in_child(arguments, tmp_path / "home", HF_ENDPOINT=hub.url)
    assert tekken["how"] == "Hugging Face hub, org/tekken/tekken.json at 0123456"
    assert hub.files_asked("org/tekken") == ["tokenizer.json", "tekken.json"]
    assert meta["how"] == "Hugging Face hub, org/meta/original/tokenizer.model at 0123456"
    assert (bare["name"], bare["size"]) == ("mine", [None, None])
    assert none["error"].startswith(
        "org/weights-only: no tokenizer in this hub repository (looked for tokenizer.json, "
    )
    assert hub.files_asked("org/weights-only") == list(FOLDER_FILES)


def test_ids_of_a_sentencepiece_model_are_downloaded_with_it(hub: HubServer, tmp_path: Path) -> None:
    (found,) = resolve_in_child(["org/marian"], tmp_path / "home", HF_ENDPOINT=hub.url)
    (tmp_path / "source.spm").write_bytes(sentencepiece_model(PIECES))
    without = read(tmp_path).fingerprint
    (tmp_path / "vocab.json").write_bytes(msgspec.json.encode(OWN_IDS))
    assert found["fingerprint"] == read(tmp_path).fingerprint != without


def test_cache_is_used_without_network(hub: HubServer, tmp_path: Path) -> None:
    home = tmp_path / "home"
    arguments = ["org/whole", "org/tekken"]
    online = resolve_in_child(arguments, home, HF_ENDPOINT=hub.url)
    before = len(hub.asked)
    offline = resolve_in_child([*arguments, "org/meta"], home, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert len(hub.asked) == before
    assert offline[:2] == online
    assert offline[2]["error"] == (
        "org/meta: no such path, none in the cache, and HF_HUB_OFFLINE is set; unset it to download"
    )


def test_hub_refusal_raises_one_line_with_advice(hub: HubServer, tmp_path: Path) -> None:
    expected = {
        "org/gated": r"a gated repository; accept its terms at https://huggingface\.co/org/gated, .* `hf auth .*",
        OLD: r"a gated repository.*; the catalog has its tokenizer: llama3",
        "org/private": r"no such path, and no such repository on the Hugging Face hub; .* private, run `hf auth .*",
        "org/absent": r"no such path, and no such repository on the Hugging Face hub.*",
        "org/bad-token": r"the Hugging Face hub answers 401; .*check HF_TOKEN or run `hf auth login`",
        "org/forbidden": r"the Hugging Face hub answers 403; if it is gated, accept its terms at https://.*/org/forbidden;.*",
        "org/moved": r"the Hugging Face hub answers 404; check the name and HF_ENDPOINT",
        "org/broken": r"the Hugging Face hub answers 501; try again later",
        "org/without-main": r"no such revision; give a branch, a tag or a commit after the @",
        "../x": r"no such path, and no valid hub id \(owner/name\)",
    }
    found = resolve_in_child(list(expected), tmp_path / "home", HF_ENDPOINT=hub.url)
    for (argument, message), answer in zip(expected.items(), found, strict=True):
        assert re.fullmatch(f"{re.escape(argument)}: {message}", answer["error"])
        assert answer["error"].isprintable()


def test_damaged_download_raises_on_one_line(hub: HubServer, tmp_path: Path) -> None:
    damaged, cut = resolve_in_child(["org/damaged", "org/cut"], tmp_path / "home", HF_ENDPOINT=hub.url)
    assert "tokenizer.json: not valid JSON" in damaged["error"]
    assert cut["error"].startswith("org/cut: the download from the Hugging Face hub failed (")
    assert cut["error"].isprintable()


def test_unreachable_hub_raises_on_one_line(tmp_path: Path) -> None:
    (found,) = resolve_in_child(["org/whole"], tmp_path / "home", HF_ENDPOINT="http://127.0.0.1:9")
    assert found["error"] == (
        "org/whole: no such path, none in the cache, and http://127.0.0.1:9 can't be reached as a Hugging Face hub; "
        "check the network, or give a local copy"
    )


# ---- sources -----------------------------------------------------------------------------------------------------


def test_source_with_other_checksum_raises(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(rank_file([b"a"]))
    digest = sha256(tmp_path / "tokenizer.model")[:12]
    with pytest.raises(
        VocabkitError, match=f"not the llama_models/llama3/tokenizer.model .*llama3 was made of.*{digest}"
    ):
        read_source(catalog()["llama3"], tmp_path / "tokenizer.model")
