"""Commands import only what they need, and alignment works without torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import TIMEOUT, error_of, vocabkit_lean
from index_map_files import QWEN_MAP, written
from tokenizer_files import FALLBACK, FUSE, SPACES, bpe_json, sequence

import vocabkit

HEAVY = {"torch", "transformers", "safetensors", "gguf", "accelerate"}
ADAPTER = Path(__file__).parents[1] / "data/smollm2-scenes.pt"
COMMANDS = [
    "--help",
    "build-shared smollm2 qwen2",
    "build-shared smollm2 qwen2 --rank-by captions.txt --top 3 --special-roles --out ranked.arrow",
    "build-shared a=bytes.json b=pieces.json --at-least 1 --special-roles",
    "check shared.arrow",
    "overlap smollm2 qwen2",
    "overlap smollm2 qwen2 --corpus captions.txt --reachability --json",
    "explain dog smollm2 qwen2",
    "import map.json qwen2 smollm2",
    "audit spelling smollm2 qwen2",
    "catalog",
    f"transfer {ADAPTER} --to llama3-8b",
]
REFUSED = [
    f"transfer {ADAPTER} --to llama3 --out captions.txt",
    "transfer missing.pt --to llama3 --out moved",
    f"transfer {ADAPTER} --to llamma3 --out moved",
    f"check {ADAPTER} {ADAPTER} --to llamma3",
    f"transfer {ADAPTER} --to llama3 --scale rms",
    f"check missing {ADAPTER} --to llama3",
    "export missing --as projector --out out",
    "infer missing.pt picture.png --out out",
    f"infer {ADAPTER} picture.png --captions --out out",
    *(
        f"infer {ADAPTER} {words}"
        for words in (
            "missing.tar --out out",
            "missing.tar.gz --out out",
            "missing.parquet --out out",
            "missing*.png --out out",
            "missing --out out",
            "picture.png --out captions.txt",
            "picture.png --out memory://seen",
            "picture.png --out sftp://host/seen",
            "picture.png --out simplecache::s3://bucket/seen",
            "picture.png --out out --captions --llm one=missing",
        )
    ),
    f"interpret {ADAPTER} picture.png --llm llama3 --top 0",
    f"interpret {ADAPTER} picture.png --llm one=missing",
    f"export {ADAPTER} --as llava --llm missing --out out",
    "train missing.toml --out out",
    "features missing.json --vision efficientnet-lite0 --out out",
    "features missing.tar --vision efficientnet-lite0 --out out",
    "features captions.txt --vision efficientnet-lite0 --out sftp://host/features",
    "validate missing.json --llm llama3 --features features --adapter one=missing",
    "adopt missing --pictures pictures --for llama3 --out out",
    "app missing.pt --llm one=missing",
]
RUN_REFUSED = """
import sys
from vocabkit_cli.app import main
for words in sys.argv[1:]:
    sys.argv = ["vocabkit", *words.split()]
    try:
        main()
    except SystemExit as ended:
        assert ended.code == 2, words
    heavy = {"torch", "transformers"} & set(sys.modules)
    assert not heavy, f"{words} imported {heavy}"
"""
RUN = """
import sys
sys.argv = ["vocabkit", *sys.argv[1:]]
from vocabkit_cli.app import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""
REPORT = """
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
RUN_REFUSED_AND_SHOW_ALLOCATOR = """
import sys
sys.argv = ["vocabkit", *sys.argv[1:]]
from vocabkit_cli.app import main
try:
    main()
except SystemExit:
    import pyarrow
    print(pyarrow.default_memory_pool().backend_name, file=sys.stderr)
"""
WITHOUT_TORCH = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "safetensors", "gguf", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the inputs of the commands."""
    folder = tmp_path_factory.mktemp("imports")
    (folder / "captions.txt").write_text("a dog on a mat\n")
    written(folder, {spelling: QWEN_MAP[spelling] for spelling in ("Ġthe", ",", "Ġa", "Ġof")})
    special = {"id": 3, "content": "<s>", "special": True}
    written(folder, bpe_json(["a", "Ġb", "Ċ"], added=[special]), "bytes.json")
    written(folder, bpe_json(["a", "▁b", "<0x0A>"], sequence(SPACES, FALLBACK, FUSE), [special]), "pieces.json")
    run(folder, RUN, "build-shared", "smollm2", "qwen2", "--out", "shared.arrow")
    return folder


def run(folder: Path, program: str, *words: str) -> set[str]:
    """Run a Python program; return the words of the last line of its stderr."""
    command = [sys.executable, "-c", program, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split()) if done.stderr else set()


def test_library_imports_no_dependency(tmp_path: Path) -> None:
    imported = run(tmp_path, "import sys, vocabkit" + REPORT)
    assert "vocabkit" in imported
    assert not imported & (HEAVY | {"numpy", "pyarrow", "tokenizers", "typer", "rich"})


def test_help_imports_neither_numpy_nor_readers(tmp_path: Path) -> None:
    for words in (["--help"], ["build-shared", "--help"], ["transfer", "--help"]):
        imported = run(tmp_path, RUN + REPORT, *words)
        assert "vocabkit_cli" in imported
        assert not imported & (HEAVY | {"numpy", "pyarrow", "tokenizers", "huggingface_hub", "msgspec", "ijson"})


def test_refused_commands_import_no_heavy_package(folder: Path) -> None:
    """What is wrong with the words of a command is said at once."""
    run(folder, RUN_REFUSED, *REFUSED)


@pytest.mark.parametrize(
    "command", ["transfer missing --to llama3 --out moved", f"check missing {ADAPTER} --to llama3"]
)
def test_transfer_and_check_choose_an_allocator_before_arrow_is_imported(folder: Path, command: str) -> None:
    """Arrow takes none later, and its own keeps 8 MB."""
    assert run(folder, RUN_REFUSED_AND_SHOW_ALLOCATOR, *command.split()) == {"system"}


def test_command_builds_no_other_command(tmp_path: Path) -> None:
    program = (
        "import vocabkit_cli.app as app\nbuild = app._build\napp._build = lambda name: print(name) or build(name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program + RUN, "catalog", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[0] == "catalog"
    assert done.stdout.count("\nbuild-shared\n") == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_alignment_command_imports_no_heavy_package(folder: Path, command: str) -> None:
    """It therefore works where torch is not installed."""
    done = vocabkit_lean(folder, *command.split(), without=HEAVY)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    [f"transfer {ADAPTER} --to smollm2-135m --out moved", f"check {ADAPTER} {ADAPTER} --to smollm2-135m"],
)
def test_command_without_torch_names_the_extra_to_install(folder: Path, command: str) -> None:
    program = WITHOUT_TORCH + "from vocabkit_cli.__main__ import run\nrun()"
    command_line = [sys.executable, "-c", program, *command.split()]
    done = subprocess.run(command_line, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    missing = r"this command needs (torch|safetensors): pip install 'vocabkit\[adapter\]'"
    assert re.fullmatch(missing, error_of(done))


def test_rooms_below_adapter_import_without_torch(tmp_path: Path) -> None:
    rooms = ("arrow", "files", "shared", "tokenizer")
    modules = [
        f"vocabkit.{room}.{file.stem}"
        for room in rooms
        for file in (Path(vocabkit.__file__).parent / room).glob("*.py")
        if file.stem != "__init__"
    ]
    imports = "".join(f"import {module}\n" for module in [*modules, "vocabkit.hub", "vocabkit.report.vocabularies"])
    run(tmp_path, WITHOUT_TORCH + imports)
