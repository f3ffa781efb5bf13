"""Bad options are refused at once: before torch or transformers is imported, and before anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import TIMEOUT

from vocabkit_cli.app import command_line

ROOT = Path(__file__).parents[2]
ADAPTER = str(ROOT / "data/smollm2-scenes.pt")
TO = ["--to", "llama3-8b"]
REFUSED: dict[str, list[tuple[list[str], str]]] = {
    "build-shared": [
        (["qwen2"], "name two or more"),
        (["qwen2", "llama3", "--union", "--at-least", "2"], "give only one"),
        (["qwen2", "llama3", "--out", "notes.txt"], "notes.txt"),
        (["qwen2", "llama3", "--rank-by", "missing.txt"], "missing.txt"),
    ],
    "overlap": [(["qwen2", "llama3", "--html", "notes.txt"], "notes.txt"), (["qwen2", "lama3"], "lama3")],
    "explain": [([" dog", "qwen2"], "name two or more")],
    "show": [
        (["missing.arrow"], "missing.arrow"),
        (["shared.arrow", "--rows", "a:b"], "--rows"),
        (["qwen2"], "qwen2: is one tokenizer"),
    ],
    "diff": [(["qwen2", "lama3"], "lama3")],
    "map": [(["qwen2", "llama3", "--out", "map.txt"], "map.txt")],
    "audit": [(["spelling", "qwen2", "lama3"], "lama3"), (["speling", "qwen2", "llama3"], "did you mean spelling?")],
    "check": [
        ([ADAPTER], "add the adapter before it"),
        ([ADAPTER, ADAPTER, *TO, "--validation", "data.json"], "add --html"),
        ([ADAPTER, ADAPTER, *TO, "--html", "notes.txt"], "notes.txt"),
        ([ADAPTER, "missing.pt", *TO], "missing.pt"),
    ],
    "import": [
        (["missing.json"], "missing.json"),
        (["missing.bin"], "missing.bin: no such file"),
        (["weights.bin", "--shared", "shared.arrow", "--llm", "qwen2", "--out", "a.bin"], "a.bin"),
        (["weights.bin", "--shared", "missing.arrow", "--llm", "qwen2"], "missing.arrow"),
    ],
    "catalog": [(["xyzzy"], "xyzzy")],
    "transfer": [
        ([ADAPTER, *TO, "--scale", "foo"], "--scale 'foo'"),
        ([ADAPTER, *TO, "--scale", "0", "--out", "moved"], "--scale is 0.0"),
        ([ADAPTER, *TO, "--scale", "rms"], "add --features"),
        ([ADAPTER, *TO, "--scale", "captions"], "add --data and --features"),
        ([ADAPTER, *TO, "--missing", "foo"], "'foo'"),
        ([ADAPTER, *TO, "--order", "place"], "--visual-tokens spelled"),
        ([ADAPTER, *TO, "--template", "foo", "--out", "moved"], "--template 'foo'"),
        ([ADAPTER, *TO, "--device", "foo", "--out", "moved"], "--device 'foo'"),
        ([ADAPTER, *TO, "--out", "moved.safetensors"], "moved.safetensors"),
        ([ADAPTER, *TO, "--out", "taken.pt"], "is not a transferred adapter"),
        (["missing.pt", *TO, "--out", "moved"], "missing.pt"),
        (["llama3-8b", "--to", ADAPTER], "llama3-8b: names an LLM"),
    ],
    "export": [
        ([ADAPTER, "--as", "foo", "--out", "x"], "'foo'"),
        ([ADAPTER, "--as", "mmproj", "--out", "x.bin"], "x.bin"),
        ([ADAPTER, "--as", "llava", "--out", "folder"], "already exists"),
        ([ADAPTER, "--as", "projector", "--device", "foo", "--out", "x"], "--device 'foo'"),
        (["missing.pt", "--as", "projector", "--out", "x"], "missing.pt"),
    ],
    "infer": [
        ([ADAPTER, "a.png", "--out", "seen", "--pool", "3"], "--pool '3'"),
        ([ADAPTER, "a.png", "--out", "seen", "--template", "foo"], "--template 'foo'"),
        ([ADAPTER, "a.png", "--out", "seen", "--device", "cuda:x"], "--device 'cuda:x'"),
        ([ADAPTER, "a.png", "--out", "seen", "--captions"], "--llm"),
        ([ADAPTER, "a.png", "--out", "seen", "--captions", "--llm", "x", "--question", "What?"], "--question"),
        (["missing.pt", "a.png", "--out", "seen"], "missing.pt"),
    ],
    "interpret": [
        ([ADAPTER, "a.png", "--pool", "3"], "--pool '3'"),
        ([ADAPTER, "a.png", "--html", "notes.txt"], "notes.txt"),
        ([ADAPTER, "a.png", "--top", "0"], "'--top'"),
        (["missing.pt", "a.png"], "missing.pt"),
    ],
    "app": [
        (["missing.pt"], "missing.pt"),
        ([ADAPTER, "--device", "foo"], "--device 'foo'"),
        ([ADAPTER, "--port", "-1"], "'--port'"),
    ],
    "scenes": [(["scenes", "--size", "1"], "'--size'")],
    "features": [
        (["data.json", "--vision", "v", "--out", "f", "--pool", "3"], "--pool '3'"),
        (["data.json", "--vision", "v", "--out", "f", "--device", "foo"], "--device 'foo'"),
        (["missing.json", "--vision", "v", "--out", "f"], "missing.json"),
        (["folder/missing.json", "--vision", "v", "--out", "f"], "folder/missing.json: no such file"),
        (["./dat.json", "--vision", "v", "--out", "f"], "did you mean data.json?"),
    ],
    "train": [
        (["missing.toml", "--out", "t"], "missing.toml"),
        (["recipe.toml", "--out", "t"], "stepz"),
        (["recipe.toml", "--out", "t", "--set", "steps"], "'steps'"),
    ],
    "adopt": [
        (["folder", "--for", "qwen2", "--out", "a", "--template", "foo"], "--template 'foo'"),
        (["folder", "--for", "qwen2", "--out", "a", "--device", "foo"], "--device 'foo'"),
        (["folder", "--for", "qwen2", "--out", "a", "--question", "What?"], "--question"),
        (["folder", "--for", "qwen2", "--out", "a", "--pictures", "missing.json"], "missing.json"),
        (["folder", "--out", "a"], "'--for'"),
        (["missing.pt", "--for", "qwen2", "--out", "a"], "missing.pt"),
    ],
    "validate": [
        (["data.json", "--llm", "x", "--template", "foo"], "--template 'foo'"),
        (["data.json", "--llm", "x", "--adapter", "foo.pt"], "of the form NAME=VALUE, such as foo=foo.pt"),
        (["data.json", "--llm", "x", "--adapter", "a=missing.pt"], "missing.pt"),
        (["data.json", "--llm", "x", "--rival", "mlp.pt"], "--rival-llm"),
        (["data.json", "--llm", "x", "--device", "foo"], "--device 'foo'"),
        (["data.json", "--llm", "x", "--out", "notes.txt"], "notes.txt"),
        (["missing.json", "--llm", "x"], "missing.json"),
    ],
    "compare": [(["foo"], "'foo'"), (["a=missing.json"], "missing.json")],
    "doctor": [(["--foo"], "--foo")],
}
PROGRAM = """
import contextlib, io, json, sys
from vocabkit_cli import app
found = []
for words in json.load(sys.stdin):
    sys.argv = ["vocabkit", *words]
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            app.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
    heavy = sorted({"torch", "transformers"} & set(sys.modules))
    found.append([code, err.getvalue(), heavy])
print(json.dumps(found))
"""


@pytest.mark.parametrize("name", list(command_line().commands))
def test_bad_options_are_refused_before_anything_heavy_is_imported(tmp_path: Path, name: str) -> None:
    for file in ("notes.txt", "captions.txt", "weights.bin"):
        (tmp_path / file).write_text("notes of the user\n")
    (tmp_path / "taken.pt").write_bytes(Path(ADAPTER).read_bytes())
    (tmp_path / "data.json").write_text("[]")
    (tmp_path / "folder").mkdir()
    (tmp_path / "recipe.toml").write_text('stepz = 3\ndata = ["data.json"]\n')
    refused = [each for each in REFUSED[name] if find_spec("jinja2") or "--html" not in each[0]]
    lines = [[name, *words] for words, _ in refused]
    lines.insert(0, ["build-shared", "smollm2", "mistral-v3", "--out", "shared.arrow"])
    before = {"shared.arrow", *(file.name for file in tmp_path.iterdir())}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(lines), cwd=tmp_path, capture_output=True, text=True,
        timeout=TIMEOUT, check=True,
    )  # fmt: skip
    for (words, says), (code, err, heavy) in zip(refused, json.loads(done.stdout.splitlines()[-1])[1:], strict=True):
        assert code == 2, (words, err)
        assert says in err.splitlines()[-1], (words, err)
        assert not heavy, (words, heavy)
    assert {file.name for file in tmp_path.iterdir()} == before
