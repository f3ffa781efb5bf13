"""Checkpoints: folder, one file and hub give back the same bits; nothing half-written; bad ones refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from file_limit import files_of_at_most
from small_adapters import HIDDEN, ROWS, VISION, WIDTH, assert_same_state, langbridge, normal, projector
from tokenizer_files import gguf_file

from vocabkit.adapter.checkpoint import check_destination
from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector, load_adapter
from vocabkit.errors import VocabkitError
from vocabkit.shared.shared_vocabulary import open_shared

PLACES = ["folder", "adapter.pt"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def refusal(source: str | Path, load: Callable[[Any], Any] = load_adapter) -> str:
    with pytest.raises(VocabkitError) as caught:
        load(source)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    assert str(source) in message
    return message


# ---- round trips -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("place", PLACES)
def test_adapter_round_trips_bit_for_bit(tmp_path: Path, place: str, dtype: torch.dtype) -> None:
    adapter = langbridge("softmax", dtype=dtype, temperature=0.5, vision_model="openai/clip", vision_layer=-2)
    adapter.save(tmp_path / place)
    found = load_adapter(tmp_path / place)
    assert isinstance(found, LangBridgeAdapter)
    assert_same_state(found, adapter)
    assert found.config == adapter.config
    assert found.shared.fingerprint == adapter.shared.fingerprint
    assert found.shared.table.equals(adapter.shared.table)
    assert not found.training


@pytest.mark.parametrize("place", PLACES)
def test_projector_round_trips_bit_for_bit(tmp_path: Path, place: str) -> None:
    module = projector(dtype=torch.bfloat16)
    module.save(tmp_path / place)
    found = load_adapter(tmp_path / place)
    assert isinstance(found, MLPProjector)
    assert_same_state(found, module)
    assert found.config == module.config
    assert found.shared is None


@pytest.mark.parametrize("place", PLACES)
def test_loaded_adapter_computes_trains_and_saves_over_itself(tmp_path: Path, place: str) -> None:
    adapter, path = langbridge("softmax"), tmp_path / place
    adapter.save(path)
    found = load_adapter(path)
    features, embeddings = normal(3, VISION), normal(ROWS, WIDTH)
    assert torch.equal(found(features, embeddings), adapter(features, embeddings))
    optimizer = torch.optim.SGD(found.parameters(), lr=0.1)
    found(features, embeddings).sum().backward()
    optimizer.step()
    assert_same_state(load_adapter(path), adapter)  # the file is not written through its mapping
    found.save(path)
    assert_same_state(load_adapter(path), found)


def test_mixed_dtypes_round_trip(tmp_path: Path) -> None:
    adapter = langbridge()
    adapter.head.to(torch.bfloat16)
    adapter.save(tmp_path / "a.pt")
    assert_same_state(load_adapter(tmp_path / "a.pt"), adapter)


def test_two_saves_give_equal_bytes(tmp_path: Path) -> None:
    for number in "12":
        langbridge().save(tmp_path / f"folder{number}")
        langbridge().save(tmp_path / f"adapter{number}.pt")
    names = sorted(file.name for file in (tmp_path / "folder1").iterdir())
    assert names == ["README.md", "config.json", "model.safetensors", "shared_vocabulary.arrow"]
    for name in names:
        assert (tmp_path / "folder1" / name).read_bytes() == (tmp_path / "folder2" / name).read_bytes()
    assert (tmp_path / "adapter1.pt").read_bytes() == (tmp_path / "adapter2.pt").read_bytes()


def test_view_is_saved_without_its_storage(tmp_path: Path) -> None:
    adapter = langbridge()
    adapter.head.weight = torch.nn.Parameter(normal(ROWS * 1000, HIDDEN)[:ROWS])
    adapter.save(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    assert_same_state(load_adapter(tmp_path / "a.pt"), adapter)


def test_folder_opens_with_plain_safetensors_and_json(tmp_path: Path) -> None:
    adapter = langbridge()
    adapter.save_pretrained(tmp_path / "folder")
    assert safetensors.torch.load_file(tmp_path / "folder/model.safetensors").keys() == adapter.state_dict().keys()
    assert open_shared(tmp_path / "folder/shared_vocabulary.arrow").fingerprint == adapter.config.shared_fingerprint
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert config["adapter_type"] == "langbridge"
    assert config["rows"] == ROWS


def test_card_states_the_config(tmp_path: Path) -> None:
    adapter = langbridge("softmax", temperature=0.25, vision_model="a|b`c\nd", vision_layer=-2)
    adapter.save_pretrained(tmp_path / "folder")
    card = huggingface_hub.ModelCard.load(tmp_path / "folder/README.md")
    assert card.data.library_name == "vocabkit"
    for fact in ("softmax, temperature 0.25", "| 64 |", "`qwen2`, `llama3`", adapter.shared.fingerprint, "transfer"):
        assert fact in card.text
    assert "`a\\|b'c\\nd`" in card.text
    projector().save_pretrained(tmp_path / "mlp")
    assert "can't be moved" in (tmp_path / "mlp/README.md").read_text()


def test_card_shows_model_names_without_paths(tmp_path: Path) -> None:
    for number, (given, shown) in enumerate(
        [("openai/clip", "openai/clip"), ("/tmp/xyz/clip", "clip"), ("./clip", "clip"), ("a/b/clip", "clip")]
    ):
        langbridge(vision_model=given).save(tmp_path / str(number))
        assert f"| Vision encoder | `{shown}` |" in (tmp_path / str(number) / "README.md").read_text()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_file_modes_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        langbridge().save(tmp_path / "folder")
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "folder").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


# ---- what may take the place of what -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_save_replaces_only_the_same_kind(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    langbridge(seed=1).save(path)
    langbridge("softmax", seed=2).save(path)
    assert "exists and is not an MLP projector" in refusal(path, projector().save)
    assert_same_state(load_adapter(path), langbridge(seed=2))


@pytest.mark.parametrize("name", ["config.json", "README.md", "model.safetensors", "photo.jpg", "notes/a.txt"])
def test_save_over_another_folder_raises(tmp_path: Path, name: str) -> None:
    file = tmp_path / "folder" / name
    file.parent.mkdir(parents=True)
    if name.endswith("safetensors"):
        safetensors.torch.save_file({"a": torch.ones(1)}, file, metadata={"format": "pt"})
    else:
        file.write_text("{}")
    before = file.read_bytes()
    assert "exists and is not a LangBridge adapter" in refusal(tmp_path / "folder", langbridge().save)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]
    assert file.read_bytes() == before


@pytest.mark.parametrize(("general_type", "may_be_replaced"), [("mmproj", True), ("model", False)])
def test_llama_cpp_projector_replaces_only_another(tmp_path: Path, general_type: str, may_be_replaced: bool) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_file({"general.type": general_type}))
    if may_be_replaced:
        check_destination(path, "mmproj")
    else:
        assert "exists and is not a llama.cpp projector" in refusal(path, lambda at: check_destination(at, "mmproj"))


def test_save_into_empty_folder_or_hidden_files_works(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "clone/.git").mkdir(parents=True)
    for name in ("empty", "clone"):
        langbridge().save(tmp_path / name)
        assert_same_state(load_adapter(tmp_path / name), langbridge())


@pytest.mark.parametrize("content", [b"text", b""])
def test_save_over_another_pt_file_raises(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    assert "exists and is not" in refusal(path, langbridge().save)
    assert path.read_bytes() == content
    path.unlink()
    torch.save({"model": torch.ones(1)}, path)
    assert "exists and is not" in refusal(path, langbridge().save)


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin", "a.PT", "a.gguf", "a.json"])
def test_suffix_of_another_format_raises(tmp_path: Path, name: str) -> None:
    assert "one file named *.pt" in refusal(tmp_path / name, langbridge().save)
    langbridge().save(tmp_path / "llava-v1.5")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llava-v1.5"]


# ---- the hub -----------------------------------------------------------------------------------------------------


def test_cached_hub_repository_loads_offline(tmp_path: Path) -> None:
    adapter = langbridge()
    repository = tmp_path / "models--someone--adapter"
    adapter.save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    found = LangBridgeAdapter.from_pretrained("someone/adapter", cache_dir=tmp_path, local_files_only=True)
    assert_same_state(found, adapter)


def test_missing_source_raises(tmp_path: Path) -> None:
    assert "no such file or folder" in refusal(tmp_path / "missing")
    assert "no such file; check the name" in refusal(tmp_path / "missing.pt")
    with pytest.raises(VocabkitError, match=r"nobody/nothing: .*cache"):
        LangBridgeAdapter.from_pretrained("nobody/nothing", cache_dir=tmp_path, local_files_only=True)


# ---- nothing half-written ----------------------------------------------------------------------------------------

KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from small_adapters import langbridge
from vocabkit.adapter.model import load_adapter
from vocabkit.errors import VocabkitError

def bits(adapter):
    return adapter.config, [t.tolist() for t in adapter.state_dict().values()]

old, retrained, other = langbridge(seed=1), langbridge(seed=2), langbridge("softmax", seed=3)
for name, new in (("one.pt", other), ("retrained", retrained), ("other", other), ("fresh", other)):
    outcomes, step, running = [], 0, True
    while running:
        path = Path(sys.argv[1]) / f"{step}-{name}"
        if name != "fresh":
            old.save(path)
        child = os.fork()
        if child == 0:
            steps = 0
            def hook(event, arguments):
                global steps
                if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                    steps += 1
                    if steps > step:
                        os.kill(os.getpid(), 9)
            sys.addaudithook(hook)
            new.save(path)
            os._exit(0)
        running = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
        try:
            found = bits(load_adapter(path))
            outcomes.append({repr(bits(old)): "old", repr(bits(new)): "new"}.get(repr(found), "MIXED"))
        except VocabkitError as error:
            absent = "no config.json here" in str(error) or "no such" in str(error)
            outcomes.append("absent" if absent else f"BROKEN {error}")
        new.save(path)
        assert bits(load_adapter(path)) == bits(new)
        step += 1
    print(name, *outcomes, sep="|")
"""


def test_killed_save_leaves_old_new_or_unfinished(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parents[1] / "support")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    outcomes = {name: seen for name, *seen in (line.split("|") for line in result.stdout.splitlines())}
    assert set(outcomes["one.pt"]) == set(outcomes["retrained"]) == {"old", "new"}
    assert set(outcomes["other"]) == {"old", "absent", "new"}
    assert set(outcomes["fresh"]) == {"absent", "new"}
    assert min(map(len, outcomes.values())) > 3


@pytest.mark.parametrize("place", PLACES)
def test_full_disk_leaves_the_old_checkpoint(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    langbridge(seed=1).save(path)
    with files_of_at_most(1000):
        message = refusal(path, langbridge("softmax", seed=2).save)
    assert "can't write" in message
    assert_same_state(load_adapter(path), langbridge(seed=1))
    assert [file.name for file in tmp_path.iterdir()] == [place]


@pytest.mark.parametrize("place", PLACES)
def test_unwritable_place_raises(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    assert "can't write" in refusal(tmp_path / "file" / place, langbridge().save)


def test_save_pretrained_to_pt_name_raises(tmp_path: Path) -> None:
    assert "writes a folder" in refusal(tmp_path / "a.pt", langbridge().save_pretrained)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_weights_are_not_saved(tmp_path: Path, value: float) -> None:
    adapter = langbridge()
    with torch.no_grad():
        adapter.head.weight[3, 2] = value
    for place in PLACES:
        message = refusal(tmp_path / place, adapter.save)
        assert "'head.weight' holds NaN or infinite numbers; nothing is saved" in message
    assert not any(tmp_path.iterdir())


# ---- changed bytes -----------------------------------------------------------------------------------------------


def flip_a_bit_of_the_weights(file: Path, tensor: torch.Tensor) -> None:
    """The lowest bit of a number of `tensor` in a file: it stays finite, and the file well-formed."""
    content = bytearray(file.read_bytes())
    content[content.index(tensor.detach().numpy().tobytes()) + 4] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("place", PLACES)
def test_flipped_weight_bit_raises(tmp_path: Path, place: str) -> None:
    adapter, path = langbridge(), tmp_path / place
    adapter.save(path)
    file = path / "model.safetensors" if path.is_dir() else path
    flip_a_bit_of_the_weights(file, adapter.head.weight)
    assert f"{file}: damaged: its weights are not those that were saved" in refusal(path)


def test_fingerprint_covers_names_and_dtypes(tmp_path: Path) -> None:
    langbridge().save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    weight = content["tensors"]["head.weight"]
    for changed in (weight.double(), weight.T.contiguous(), None):
        tensors = {name: tensor for name, tensor in content["tensors"].items() if name != "head.weight"}
        tensors |= {"other": weight} if changed is None else {"head.weight": changed}
        torch.save({**content, "tensors": tensors}, tmp_path / "b.pt")
        assert "not those that were saved" in refusal(tmp_path / "b.pt")


def test_checkpoint_without_fingerprint_loads(tmp_path: Path) -> None:
    adapter = langbridge()
    adapter.save(tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    del content["fingerprint"]
    torch.save(content, tmp_path / "a.pt")
    adapter.save(tmp_path / "folder")
    tensors = safetensors.torch.load_file(tmp_path / "folder/model.safetensors")
    safetensors.torch.save_file(dict(tensors), tmp_path / "folder/model.safetensors", metadata={"format": "pt"})
    for place in ("a.pt", "folder"):
        assert_same_state(load_adapter(tmp_path / place), adapter)


# ---- bad folders -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    langbridge().save(tmp_path / "folder")
    return tmp_path / "folder"


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = {name: t.clone() for name, t in safetensors.torch.load_file(folder / "model.safetensors").items()}
    change(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "shared_vocabulary.arrow"])
def test_missing_file_raises(folder: Path, name: str) -> None:
    (folder / name).unlink()
    words = {"shared_vocabulary.arrow": "shared vocabulary is missing"}.get(name, name)
    assert words in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "shared_vocabulary.arrow"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_raises(folder: Path, name: str, share: float) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * share)])
    assert name in refusal(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "shared_vocabulary.arrow"])
def test_folder_in_place_of_a_file_raises(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refusal(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "no format"),
        (b"{}", "no format"),
        (b'{"format": 1}', "no format"),
        (b'{"format": "vocabkit-adapter/2"}', "pip install -U vocabkit"),
        (b'{"format": "vocabkit-adapter/1"}', "type 'None'"),
        (b'{"format": "vocabkit-adapter/1", "adapter_type": ["mlp"]}', "type"),
        (b'{"format": "vocabkit-adapter/1", "adapter_type": "langbridge"}', "vision_width"),
    ],
)
def test_unreadable_config_raises(folder: Path, text: bytes, words: str) -> None:
    (folder / "config.json").write_bytes(text)
    assert words in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": "64"}, "rows"),
        ({"rows": 63}, "should be (63, 5)"),
        ({"rows": 10**30}, "should be"),
        ({"rows": -1}, "rows"),
        ({"hidden_width": 10**15}, "should be"),
        ({"vision_width": None}, "vision_width"),
        ({"head": "hard"}, "head"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan"), "head": "softmax"}, "temperature"),
        ({"llm": "gemma3"}, "gemma3 is not in this shared vocabulary"),
        ({"llm": "\n\x1b[31m"}, "not in this shared vocabulary"),
        ({"shared_fingerprint": "sha256:" + "0" * 64}, "trained on"),
        ({"adapter_type": "mlp"}, "llm_width"),
    ],
)
def test_wrong_config_raises(folder: Path, changes: dict[str, Any], words: str) -> None:
    change_config(folder, **changes)
    assert words in refusal(folder)


def test_other_shared_vocabulary_raises(folder: Path) -> None:
    langbridge().shared.select(range(ROWS - 1, -1, -1)).save(folder / "shared_vocabulary.arrow")
    assert "trained on" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("head.bias"), "lacks head.bias"),
        (lambda t: t.update(extra=torch.ones(1)), "extra"),
        (lambda t: t.update({"head.bias": torch.ones(ROWS - 1)}), "head.bias is (63,)"),
        (lambda t: t.update({"linear_1.weight": torch.ones(VISION, HIDDEN)}), "linear_1.weight is (7, 5)"),
        (lambda t: t.update({"head.bias": torch.ones(ROWS, dtype=torch.int32)}), "floats"),
        (lambda t: t.update({"head.bias": torch.ones(0)}), "floats"),
        (lambda t: t["head.bias"].fill_(float("nan")), "NaN"),
        (lambda t: t["head.weight"][5].fill_(float("inf")), "NaN or infinite"),
        (lambda t: t.clear(), "lacks"),
    ],
)
def test_wrong_tensors_raise(folder: Path, change: Callable[[dict[str, torch.Tensor]], object], words: str) -> None:
    change_tensors(folder, change)
    assert words in refusal(folder)


def test_adapter_of_another_type_raises(folder: Path) -> None:
    assert "holds a LangBridge adapter, not an MLP projector" in refusal(folder, MLPProjector.from_pretrained)


# ---- bad files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    langbridge().save(tmp_path / "adapter.pt")
    return tmp_path / "adapter.pt"


def change_file(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(file, weights_only=True)
    content.pop("fingerprint", None)  # what else is wrong is to be found
    change(content)
    torch.save(content, file)


class Trap:
    """Unpickling it touches a file."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.victim}",)


def test_malicious_pickle_is_not_executed(file: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    change_file(file, lambda content: content["tensors"].update(trap=Trap(victim)))
    assert "more than plain tensors" in refusal(file)
    assert not victim.exists()

    file.write_bytes(pickle.dumps(Trap(victim)))  # as torch wrote before 1.6
    assert "not a file of torch.save" in refusal(file)
    assert not victim.exists()

    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(victim), protocol=2))
        archive.writestr("archive/version", "3\n")
    refusal(file)
    assert not victim.exists()
    torch.load(file, weights_only=False)  # the trap itself works
    assert victim.exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_pt_file_raises(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert "truncated" in refusal(file)


def test_compressed_pt_file_raises(file: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.pt"
    with zipfile.ZipFile(file) as plain, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry) + bytes(10_000_000))
    assert "compressed" in refusal(bomb)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("config"), "no config"),
        (lambda c: c.update(config=torch.ones(1)), "no config"),
        (lambda c: c.update(config="{"), "not JSON"),
        (lambda c: c.pop("tensors"), "tensors are missing"),
        (lambda c: c.update(tensors=[torch.ones(1)]), "tensors are missing"),
        (lambda c: c["tensors"].update({3: torch.ones(1)}), "3"),
        (lambda c: c["tensors"].update({"head.bias": "text"}), "head.bias"),
        (lambda c: c["tensors"].update({"head.bias": torch.ones(1).expand(10**12)}), "dense"),
        (lambda c: c["tensors"].update({"head.bias": torch.ones(10**12, device="meta")}), "dense"),
        (lambda c: c["tensors"].update({"head.bias": torch.ones(ROWS).to_sparse()}), "dense"),
        (lambda c: c["tensors"].update({"head.bias": torch.ones(ROWS, dtype=torch.complex64)}), "floats"),
        (lambda c: c["tensors"].update({"head.bias": torch.ones(ROWS).to(torch.float8_e4m3fn)}), "floats"),
        (lambda c: c["tensors"]["head.bias"].fill_(float("nan")), "NaN"),
        (lambda c: c["tensors"].pop("linear_2.bias"), "lacks linear_2.bias"),
        (lambda c: c.pop("shared_vocabulary"), "shared vocabulary is missing"),
        (lambda c: c.update(shared_vocabulary="text"), "not a tensor of bytes"),
        (lambda c: c.update(shared_vocabulary=torch.ones(9)), "not a tensor of bytes"),
        (lambda c: c.update(shared_vocabulary=c["shared_vocabulary"][None]), "not a tensor of bytes"),
        (lambda c: c.update(shared_vocabulary=torch.ones(9, dtype=torch.uint8)), "not an Arrow file"),
        (lambda c: c.update(shared_vocabulary=c["shared_vocabulary"][:-99].clone()), "shared_vocabulary.arrow inside"),
        (lambda c: c["shared_vocabulary"][999].bitwise_xor_(1), "damaged"),
    ],
)
def test_wrong_pt_file_raises(file: Path, change: Callable[[dict[str, Any]], object], words: str) -> None:
    change_file(file, change)
    assert words in refusal(file)


def test_other_files_raise(tmp_path: Path) -> None:
    for name, content in (("a.pt", 5), ("b.pt", [torch.ones(1)]), ("c.pt", {"weight": torch.ones(1)})):
        torch.save(content, tmp_path / name)
        assert "not an adapter" in refusal(tmp_path / name)
    (tmp_path / "model.safetensors").touch()
    assert "expected a folder" in refusal(tmp_path / "model.safetensors")
    (tmp_path / "link.pt").symlink_to(tmp_path / "nowhere")
    assert "no such file" in refusal(tmp_path / "link.pt")
