"""transfer, check and export through the real entry point."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
import torch
from command_line import vocabkit, vocabkit_lean
from hub_server import COMMIT, HubServer, _Handler
from safetensors.torch import load_file, save_file
from small_adapters import ROWS, VISION, assert_same_state, langbridge, normal, projector
from tiny_llms import random_rows, table_folder
from tokenizer_files import bpe_json

from vocabkit.adapter.model import LangBridgeAdapter, MLPProjector
from vocabkit.transfer.published import import_published, save_published
from vocabkit.vision.feature_files import FeatureInfo, FeatureWriter
from vocabkit_cli.app import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with an adapter and an LLM's embedding table."""
    langbridge().save(tmp_path / "adapter.pt")
    langbridge("softmax").save(tmp_path / "softmax.pt")
    table_folder(tmp_path / "llm", random_rows(128_256, 6))
    table_folder(tmp_path / "bert", random_rows(10, 6))
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    projector().save(tmp_path / "mlp.pt")
    (tmp_path / "published.bin").touch()
    save_file({"features": normal(4, 5, 7)}, tmp_path / "features.safetensors")
    save_file({"features": normal(4, 5, 31)}, tmp_path / "wide.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def moved(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The adapter on the LLM."""
    assert run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved") == 0
    capsys.readouterr()
    return here / "moved"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `vocabkit words...`."""
    monkeypatch.setattr("sys.argv", ["vocabkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


TO_LLAMA = ("--to", "llama3", "--weights", "llm")
EFFICIENT = ("--vision", "efficientnet-lite0")


def test_without_out_only_reports(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(here.iterdir())
    assert run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA) == 0
    shown = capsys.readouterr()
    assert "64 of 64 rows (100.0%)" in shown.out
    assert "yes: into a stock two-layer projector" in shown.out
    assert "128,256 embedding rows of llm/model.safetensors" in shown.err
    assert shown.err.splitlines()[-1] == "nothing is written; to write the result, add --out"
    assert sorted(here.iterdir()) == before


def test_transfer_is_written_and_passes_check(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved") == 0
    shown = capsys.readouterr()
    assert shown.out.endswith("written: moved\n")
    proof = "prove it: vocabkit check moved adapter.pt --to llama3 --weights llm"
    assert shown.err.splitlines()[-1] == proof
    assert run(monkeypatch, "check", "moved", "adapter.pt", *TO_LLAMA, "--features", "features.safetensors") == 0
    assert "64 rows proven" in capsys.readouterr().out


def test_table_of_an_unforeseen_name_is_named_by_the_user(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = load_file(here / "llm/model.safetensors")["model.embed_tokens.weight"]
    save_file({"brain.rows": rows}, here / "llm/model.safetensors")
    assert run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved") == 2
    assert "it has 'brain.rows'); name it: --embedding-tensor" in capsys.readouterr().err
    named = ("--embedding-tensor", "brain.rows")
    assert run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved", *named) == 0
    proof = "check moved adapter.pt --to llama3 --weights llm --embedding-tensor brain.rows"
    assert capsys.readouterr().err.splitlines()[-1] == f"prove it: vocabkit {proof}"
    assert run(monkeypatch, *proof.split()) == 0
    assert "64 rows proven" in capsys.readouterr().out


def test_transfer_imports_no_pandas_no_compiler_and_little_of_pyarrow(here: Path) -> None:
    save_published(langbridge(), here / "mm_projector.bin")
    langbridge().shared.save(here / "shared.arrow")
    for words in (
        ("transfer", "adapter.pt", *TO_LLAMA, "--out", "moved"),
        ("check", "moved", "adapter.pt", *TO_LLAMA),
        ("import", "mm_projector.bin", "--shared", "shared.arrow", "--llm", "qwen2", "--out", "imported.pt"),
    ):
        done = vocabkit_lean(here, *words, without=() if words[0] == "import" else {"huggingface_hub", "gguf"})
        assert done.returncode == 0, done.stderr


def test_wrong_transfer_exits_with_1(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved")
    tensors = load_file(here / "moved/model.safetensors")
    tensors["embeddings"] = tensors["embeddings"].roll(1, dims=0)
    save_file(tensors, here / "moved/model.safetensors")
    assert run(monkeypatch, "check", "moved", "adapter.pt", *TO_LLAMA) == 1
    assert "NOT proven" in capsys.readouterr().out


def test_json_holds_the_report_and_the_proof(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "transfer", "softmax.pt", *TO_LLAMA, "--out", "moved.pt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["written"] == "moved.pt"
    assert (found["preflight"]["found"], found["preflight"]["folds"]) == (64, False)
    assert run(monkeypatch, "check", "moved.pt", "softmax.pt", *TO_LLAMA, "--json") == 0
    proof = json.loads(capsys.readouterr().out)
    assert proof["passed"] is True
    assert proof["checks"][0]["error"] < proof["checks"][0]["limit"]


def test_spelled_visual_tokens_are_reported_recorded_and_proven(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("--visual-tokens", "spelled", "--threshold", "0.1", "--order", "place", "--positions", "5")
    assert run(monkeypatch, "transfer", "softmax.pt", *TO_LLAMA, *settings, "--out", "moved") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "spelled out: words of a share from 0.1, in the order of their places, in 5 positions" in shown
    config = json.loads((here / "moved/config.json").read_text())
    assert config["spelled"] == {"threshold": 0.1, "order": "place", "positions": 5}
    assert "in the order of their places" in (here / "moved/README.md").read_text()
    assert run(monkeypatch, "check", "moved", "softmax.pt", *TO_LLAMA) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "made, as recorded: spelled out: words of a share from 0.1, in the order of their places" in shown


@pytest.mark.parametrize("words", [("--order", "place"), ("--visual-tokens", "mix", "--positions", "4")])
def test_settings_of_spelled_words_alone_are_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert run(monkeypatch, "transfer", "softmax.pt", *TO_LLAMA, *words) == 2
    assert "is for words in order: add --visual-tokens spelled" in capsys.readouterr().err


def test_settings_that_are_not_given_stay_as_they_were(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ("--visual-tokens", "spelled", "--threshold", "0.1", "--order", "place", "--positions", "5")
    assert run(monkeypatch, "transfer", "softmax.pt", *TO_LLAMA, *settings, "--out", "moved.pt") == 0
    spelled = dict(zip(("threshold", "order", "positions"), (0.1, "place", 5), strict=True))
    for words in (("--visual-tokens", "spelled", "--threshold", "0.2"), ("--threshold", "0.2")):
        assert run(monkeypatch, "transfer", "moved.pt", *TO_LLAMA, *words, "--out", "again", "--overwrite") == 0
        assert json.loads((here / "again/config.json").read_text())["spelled"] == {**spelled, "threshold": 0.2}
    assert run(monkeypatch, "transfer", "moved.pt", *TO_LLAMA, "--visual-tokens", "mix", "--out", "mixed") == 0
    assert "spelled" not in json.loads((here / "mixed/config.json").read_text())


def test_rms_scale_is_recorded(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--scale", "rms", "--features", "features.safetensors", "--out", "moved")
    assert run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, *options) == 0
    moved = LangBridgeAdapter.from_pretrained(here / "moved", kind="transferred")
    tokens = moved(normal(4, 5, 7)).detach()
    assert float(tokens.square().mean().sqrt()) == pytest.approx(
        float(moved.embeddings.square().mean().sqrt()), rel=1e-3
    )
    assert run(monkeypatch, "check", "moved", "adapter.pt", *TO_LLAMA) == 0


@pytest.mark.parametrize(("adapter", "hint"), [("adapter.pt", True), ("softmax.pt", False)])
def test_features_add_visual_token_length_to_the_report(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], adapter: str, hint: bool
) -> None:
    words = ("transfer", adapter, *TO_LLAMA, "--features", "features.safetensors")
    assert run(monkeypatch, *words, "--json") == 0
    found = json.loads(capsys.readouterr().out)["preflight"]
    assert (found["visual_rms"] > 3 * found["norms"]["rms"]) == hint
    assert run(monkeypatch, *words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    ratio = found["visual_rms"] / found["norms"]["rms"]
    assert f"visual tokens RMS of an element {found['visual_rms']:.3g}, {ratio:.3g} times that of the rows" in shown
    assert ("try scale rms" in shown) == hint
    assert run(monkeypatch, *words, "--scale", "rms") == 0
    assert "1 times that of the rows scale" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_features_may_be_a_folder_or_a_file(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    features_folder(here / "features", normal(4, 5, VISION), dtype)
    words = ("adapter.pt", *TO_LLAMA, "--scale", "rms")
    assert run(monkeypatch, "transfer", *words, "--features", "features", "--out", "moved") == 0
    assert run(monkeypatch, "transfer", *words, "--features", "features.safetensors", "--out", "again") == 0
    moved, again = (LangBridgeAdapter.from_pretrained(here / name, kind="transferred") for name in ("moved", "again"))
    assert moved.scale == pytest.approx(again.scale, rel=1e-3)
    capsys.readouterr()
    assert run(monkeypatch, "check", "moved", "adapter.pt", *TO_LLAMA, "--features", "features") == 0
    shown = capsys.readouterr().out
    assert "real features" in shown
    assert f"scale of the visual tokens, as recorded: {moved.scale:.6g}" in shown


def features_folder(folder: Path, features: torch.Tensor, dtype: str) -> None:
    """As `vocabkit features` writes it, a picture in a row: (M, N, Dv)."""
    info = FeatureInfo(
        name="random", layer=-2, keep_cls=False, pool=None, grid=(1, 5), tokens=5, width=VISION, precision="float32",
        fingerprint="", dtype=dtype,
    )  # fmt: skip
    writer = FeatureWriter(folder, info)
    for number, rows in enumerate(features.to(getattr(torch, dtype))):
        writer.add({f"digest {number}": rows}, {f"key {number}": f"digest {number}"}, {})
    writer.write_rest()
    writer.finish()


def test_linear_adapter_exports_as_projector(
    moved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "export", "moved", "--as", "projector", "--out", "folded", "--json") == 0
    transferred = LangBridgeAdapter.from_pretrained(moved, kind="transferred")
    folded = MLPProjector.from_pretrained("folded")
    torch.testing.assert_close(folded(normal(3, 7)), transferred(normal(3, 7)), rtol=1e-4, atol=1e-4)
    size = json.loads(capsys.readouterr().out)["bytes"]
    assert size == sum(tensor.nbytes for tensor in folded.state_dict().values())


def test_mm_projector_is_what_llava_loads(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "export", "moved", "--as", "mm_projector", "--out", "mm_projector.bin") == 0
    tensors = torch.load(moved.parent / "mm_projector.bin", weights_only=True)
    assert sorted(tensors) == [f"model.mm_projector.{i}.{part}" for i in (0, 2) for part in ("bias", "weight")]
    with pytest.raises(ValueError, match="plain LLaVA projector"):
        import_published(moved.parent / "mm_projector.bin", langbridge().shared, "qwen2")


@pytest.mark.parametrize(
    "words", [("mm_projector", "--out", "x.bin"), ("llava", "--vision", "v", "--llm", "four", "--out", "x")]
)
def test_hidden_width_that_a_form_can_not_hold_raises_before_rows_are_read(
    moved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    table_folder(moved.parent / "four", random_rows(128_256, 4))
    run(monkeypatch, "transfer", "adapter.pt", "--to", "llama3", "--weights", "four", "--out", "narrow")
    (moved.parent / "narrow" / "model.safetensors").unlink()
    capsys.readouterr()
    assert run(monkeypatch, "export", "narrow", "--as", *words) == 2
    assert "more than the LLM's width 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("adapter.pt", "--as", "projector", "--out", "x"), "was not transferred: it has no embedding rows"),
        (("moved-softmax", "--as", "projector", "--out", "x"), "give --features to distil it into a projector"),
        (("moved", "--as", "mmproj", "--out", "x.gguf"), "give --vision"),
        (("moved", "--as", "llava", "--vision", "v", "--out", "x"), "holds the LLM: give --llm"),
        (("moved", "--as", "projector", "--keep-cls", "--out", "x"), "--keep-cls is only for llava"),
        (("moved", "--as", "projector", "--vision", "v", "--out", "x"), "leave --vision out"),
        (("moved", "--as", "mm_projector", "--llm", "llm", "--out", "x.bin"), "leave --llm out"),
        (("moved", "--as", "projector", "--data", "d.json", "--out", "x"), "give --features"),
        (("moved-narrow", "--as", "mm_projector", "--out", "x.bin"), "more than the LLM's width 4"),
        (("moved-narrow", "--as", "llava", "--vision", "v", "--llm", "llm", "--out", "x"), "than the LLM's width 4"),
        (("moved", "--as", "llava", *EFFICIENT, "--llm", "llm", "--out", "x"), "not a vision transformer, so llava"),
        (("moved", "--as", "mmproj", *EFFICIENT, "--out", "x.gguf"), "export hf or projector"),
        (("moved", "--as", "projector", "--out", "softmax.pt"), "is not an MLP projector"),
        (("moved", "--as", "mm_projector", "--out", "projector.pt"), "a file named *.bin"),
        (("moved", "--as", "llava", "--llm", "l", "--vision", "x", "--out", "x.gguf"), "checkpoint is a folder"),
        (("moved", "--as", "llava", "--llm", "l", "--vision", "x", "--out", "llm"), "llm: already exists"),
        (("absent.pt", "--as", "projector", "--out", "x"), "absent.pt: no such file"),
        (("mlp.pt", "--as", "projector", "--features", "f", "--out", "x"), "no index.json"),
    ],
)
def test_invalid_export_writes_nothing(
    moved: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    run(monkeypatch, "transfer", "softmax.pt", *TO_LLAMA, "--out", "moved-softmax")
    table_folder(moved.parent / "four", random_rows(128_256, 4))
    run(monkeypatch, "transfer", "adapter.pt", "--to", "llama3", "--weights", "four", "--out", "moved-narrow")
    capsys.readouterr()
    before = sorted(moved.parent.rglob("*"))
    assert run(monkeypatch, "export", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error
    assert sorted(moved.parent.rglob("*")) == before


def test_import_adapter_result_can_be_transferred(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = langbridge()
    save_published(original, here / "mm_projector.bin")
    original.shared.save(here / "shared.arrow")
    words = ("import", "mm_projector.bin", "--shared", "shared.arrow", "--llm", "qwen2", "--out", "imported.pt")
    assert run(monkeypatch, *words) == 0
    shown = capsys.readouterr()
    assert "linear head, 64 rows, hidden 5, trained with qwen2" in shown.out
    assert "its vision model and layer are not recorded" in shown.err
    assert_same_state(LangBridgeAdapter.from_pretrained(here / "imported.pt"), original)
    assert run(monkeypatch, "transfer", "imported.pt", *TO_LLAMA) == 0
    assert run(monkeypatch, *words[:3], "--llm", "gemma3") == 2


def test_import_adapter_records_vision_and_layer(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_published(langbridge(), here / "mm_projector.bin")
    langbridge().shared.save(here / "shared.arrow")
    words = ("import", "mm_projector.bin", "--shared", "shared.arrow", "--llm", "qwen2", "--out", "imported.pt")
    assert run(monkeypatch, *words, "--vision", "openai/clip", "--layer", "-2") == 0
    shown = capsys.readouterr()
    assert (shown.out.splitlines()[-1], shown.err) == ("features: openai/clip, layer -2", "")
    config = LangBridgeAdapter.from_pretrained(here / "imported.pt").config
    assert (config.vision_model, config.vision_layer, config.vision_keep_cls) == ("openai/clip", -2, None)


class OnlyAtV1(_Handler):
    """A hub whose repositories have no main branch, but a tag v1.0."""

    def _answer(self, *, with_body: bool) -> None:
        main = "/resolve/main/" in self.path
        self.path = "/none" if main else re.sub(f"/resolve/(v1.0|{COMMIT})/", "/resolve/main/", self.path)
        super()._answer(with_body=with_body)


def test_hub_revision_gives_tokenizer_and_rows(here: Path) -> None:
    rows = random_rows(94, 6)
    llm = table_folder(here / "v1", rows)
    (llm / "tokenizer.json").write_bytes(msgspec.json.encode(bpe_json([chr(33 + i) for i in range(94)])))
    files = {file.name: file.read_bytes() for file in llm.iterdir()}
    with HubServer({"owner/name": files}) as hub:
        hub.RequestHandlerClass = OnlyAtV1
        words = ("transfer", "adapter.pt", "--to", "owner/name@v1.0", "--out", "moved.pt")
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(here / "home")}
        done = vocabkit(here, *words, **environment)
    assert done.returncode == 0, done.stderr
    assert f"owner/name/tokenizer.json at {COMMIT[:7]}; 94 embedding rows of owner/name@{COMMIT[:12]}" in done.stderr
    moved = LangBridgeAdapter.from_pretrained(here / "moved.pt", kind="transferred")
    assert moved.llm == "name"
    assert torch.equal(moved.embeddings, rows[moved.shared.ids_for("name").astype(int)])
    assert len(moved.embeddings) == ROWS


@pytest.mark.parametrize("command", [("transfer",), ("check", "moved")])
def test_weights_without_tokenizer_raise_with_advice(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    run(monkeypatch, "transfer", "adapter.pt", *TO_LLAMA, "--out", "moved")
    capsys.readouterr()
    assert run(monkeypatch, *command, "adapter.pt", "--to", "llama3=llm") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: llm: no tokenizer in this folder: none of ")
    assert error.endswith("; take one from elsewhere: --to llama3 --weights llm\n")
    advised = error.split(": ")[-1].split()
    assert run(monkeypatch, *command, "adapter.pt", *advised) == 0


@pytest.mark.parametrize(
    ("argument", "advice"),
    [
        ("mine=llm", "--to mine=TOKENIZER --weights llm"),
        ("llm", "--to TOKENIZER --weights llm"),
        ("qwen2=llm", "--to qwen2=TOKENIZER --weights llm"),
    ],
)
def test_advice_never_names_an_unknown_tokenizer(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argument: str, advice: str
) -> None:
    (here / "qwen2").touch()
    assert run(monkeypatch, "transfer", "adapter.pt", "--to", argument) == 2
    assert capsys.readouterr().err.endswith(f"; take one from elsewhere: {advice}\n")


def test_commands_without_the_option_do_not_name_it(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for argument, says in {
        "llama3": "names a tokenizer, not a model; say which model: llama3-8b or llama3-70b, or give it: llama3=FOLDER",
        "llama3=llm": "no tokenizer in this folder",
    }.items():
        assert run(monkeypatch, "interpret", "adapter.pt", "picture.png", "--llm", argument) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "--weights" not in error


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("adapter.pt", "--to", "llama3"), "names a tokenizer, not a model; say which model: llama3-8b"),
        (("adapter.pt", "--to", "lama3"), "did you mean"),
        (("adapter.pt", *TO_LLAMA, "--scale", "rms"), "add --features"),
        (("adapter.pt", "--to", "llm", "--scale", "captions"), "add --data and --features"),
        (("adapter.pt", *TO_LLAMA, "--scale", "big"), "choose none, rms, captions, or a number"),
        (("adapter.pt", *TO_LLAMA, "--scale", "1e40"), "--scale is 1e+40: choose rms or a number from 1e-6 to 1e6"),
        (("adapter.pt", *TO_LLAMA, "--out", "adapter.pt"), "adapter.pt: is the adapter to transfer; name another"),
        (("mlp.pt", *TO_LLAMA), "mlp.pt: holds an MLP projector, not a LangBridge adapter; it has no vocabulary"),
        (("adapter.pt", "--to", "llama3", "--weights", "bert"), "encoder-only model ('bert'); pass a causal LLM"),
        (
            ("adapter.pt", *TO_LLAMA, "--scale", "rms", "--features", "wide.safetensors"),
            "wide.safetensors: has features of",
        ),
        (("adapter.pt", *TO_LLAMA, "--scale", "rms", "--features", "llm"), "llm: no index.json"),
        (("adapter.pt", *TO_LLAMA, "--scale", "rms", "--features", "adapter.pt"), "; is it a safetensors file?"),
        (
            ("adapter.pt", *TO_LLAMA, "--scale", "rms", "--features", "llm/model.safetensors"),
            "model.safetensors: no tensor 'features' of patch features (N, Dv) in it",
        ),
        (
            ("adapter.pt", *TO_LLAMA, "--out", "llm"),
            "llm: exists and is not a transferred adapter; choose another name",
        ),
        (("adapter.pt", *TO_LLAMA, "--out", "softmax.pt"), "softmax.pt: exists and is not a transferred adapter"),
        (("adapter.pt", *TO_LLAMA, "--out", "moved.safetensors"), "a folder, or one file named *.pt"),
        (("absent.pt", *TO_LLAMA), "absent.pt: no such file"),
        (("adapter.pt", "--to", "llama3", "--weights", "absent"), "absent"),
        (("adapter.pt", "--to", "mistral-v1", "--weights", "llm", "--out", "missing/moved.pt"), "missing"),
        (("adapter.pt", "--to", "gemma3", "--weights", "llm"), "outside its 128256 rows"),
        (("llm", *TO_LLAMA), "not an adapter of vocabkit"),
        (("published.bin", *TO_LLAMA), "named *.pt; for LangBridge's published weights, run `vocabkit import` first"),
    ],
)
def test_invalid_input_writes_nothing(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    says: str,
) -> None:
    before = sorted(here.rglob("*"))
    assert run(monkeypatch, "transfer", *words) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert says in error
    assert sorted(here.rglob("*")) == before
