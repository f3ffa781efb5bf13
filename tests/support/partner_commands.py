"""Commands of the partner world, each with one partner of its adapter to be filled in, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import error_of, vocabkit_here
from partner_world import PartnerWorld, make_partner_world

Command = Callable[[PartnerWorld, Path, str], list[str | Path]]
"""The words of a command that is given one partner: its folder, or features made with it."""


def recipe(world: PartnerWorld, out: Path, **changes: object) -> list[str | Path]:
    """`vocabkit train` for one step with these fields."""
    out.mkdir(exist_ok=True)
    plain: dict[str, object] = {"llm": f"two={world.folder / 'two'}", "features": str(world.folder / "features")}
    plain |= {"adapter": str(world.folder / "moved"), "shared": None, "steps": 1, "batch": 2}
    file = world.small.write_recipe(out / "recipe.toml", **(plain | changes))
    return ["train", file, "--out", out / "trained"]


def _infer_captions(adapter: str, llm: str) -> Command:
    return lambda world, out, partner: [
        "infer", world.folder / adapter, world.small.data, "--captions", "--max-new-tokens", "1", "--llm",
        f"{llm}={partner}", "--out", out, "--device", "cpu",
    ]  # fmt: skip


def _validate(adapter: str, llm: str) -> Command:
    return lambda world, out, partner: [
        "validate", world.small.data, "--llm", f"{llm}={partner}", "--adapter", f"x={world.folder / adapter}",
        "--features", world.folder / "features", "--limit", "2", "--device", "cpu",
    ]  # fmt: skip


LLM_COMMANDS: dict[str, tuple[str, Command]] = {
    "infer visual tokens, native": (
        "one",
        lambda world, out, partner: [
            "infer", world.folder / "native", world.small.data, "--llm", f"one={partner}", "--out", out,
            "--device", "cpu",
        ],
    ),
    "infer captions, native": ("one", _infer_captions("native", "one")),
    "infer captions, moved": ("two", _infer_captions("moved", "two")),
    "infer captions, projector": ("two", _infer_captions("projector", "two")),
    "interpret, native": (
        "one",
        lambda world, out, partner: [
            "interpret", world.folder / "native", world.small.data, "--llm", f"one={partner}", "--limit", "1",
        ],
    ),
    "interpret, moved": (
        "two",
        lambda world, out, partner: [
            "interpret", world.folder / "moved", world.small.data, "--llm", f"two={partner}", "--limit", "1",
        ],
    ),
    "interpret, projector": (
        "two",
        lambda world, out, partner: [
            "interpret", world.folder / "projector", world.small.data, "--llm", f"two={partner}", "--limit", "1",
        ],
    ),
    "validate, native": ("one", _validate("native", "one")),
    "validate, moved": ("two", _validate("moved", "two")),
    "validate, projector": ("two", _validate("projector", "two")),
    "validate, rival": (
        "two",
        lambda world, out, partner: [
            "validate", world.small.data, "--llm", f"one={world.folder / 'one'}", "--adapter",
            f"x={world.folder / 'native'}", "--features", world.folder / "features", "--limit", "2", "--device", "cpu",
            "--rival", world.folder / "projector", "--rival-llm", f"two={partner}",
        ],
    ),
    "train, native": (
        "one",
        lambda world, out, partner: recipe(world, out, adapter=str(world.folder / "native"), llm=f"one={partner}"),
    ),
    "train, moved": ("two", lambda world, out, partner: recipe(world, out, llm=f"two={partner}")),
    "train, projector": (
        "two",
        lambda world, out, partner: recipe(world, out, adapter=str(world.folder / "projector"), llm=f"two={partner}"),
    ),
    "export llava, moved": (
        "two",
        lambda world, out, partner: [
            "export", world.folder / "moved", "--as", "llava", "--llm", partner, "--vision", world.folder / "vision",
            "--out", out,
        ],
    ),
    "export llava, projector": (
        "two",
        lambda world, out, partner: [
            "export", world.folder / "projector", "--as", "llava", "--llm", partner, "--vision",
            world.folder / "vision", "--out", out,
        ],
    ),
}  # fmt: skip
"""Name -> the LLM that belongs to the adapter, and the command with another in its place."""

VISION_COMMANDS: dict[str, tuple[str, Command]] = {
    "infer": (
        "vision",
        lambda world, out, partner: [
            "infer", world.folder / "moved", world.small.data, "--vision", partner, "--out", out, "--device", "cpu",
        ],
    ),
    "interpret": (
        "vision",
        lambda world, out, partner: [
            "interpret", world.folder / "moved", world.small.data, "--vision", partner, "--limit", "1", "--llm",
            f"two={world.folder / 'two'}",
        ],
    ),
    "export llava": (
        "vision",
        lambda world, out, partner: [
            "export", world.folder / "moved", "--as", "llava", "--llm", world.folder / "two", "--vision", partner,
            "--out", out,
        ],
    ),
    "export mmproj": (
        "vision",
        lambda world, out, partner: [
            "export", world.folder / "projector", "--as", "mmproj", "--vision", partner, "--out",
            out.with_suffix(".gguf"),
        ],
    ),
    "export, distilled": (
        "features",
        lambda world, out, partner: [
            "export", world.folder / "softmax", "--as", "projector", "--features", partner, "--steps", "2", "--out",
            out,
        ],
    ),
    "train on pictures": ("vision", lambda world, out, partner: recipe(world, out, features=None, vision=partner)),
    "train on features": ("features", lambda world, out, partner: recipe(world, out, features=partner)),
    "validate": (
        "features",
        lambda world, out, partner: [
            "validate", world.small.data, "--llm", f"two={world.folder / 'two'}", "--adapter",
            f"x={world.folder / 'moved'}", "--features", partner, "--limit", "2", "--device", "cpu",
        ],
    ),
    "validate, rival": (
        "features",
        lambda world, out, partner: [
            "validate", world.small.data, "--llm", f"two={world.folder / 'two'}", "--features", partner, "--limit", "2",
            "--device", "cpu", "--adapter", f"x={world.folder / 'native'}", "--rival", world.folder / "projector",
            "--rival-llm", f"two={world.folder / 'two'}",
        ],
    ),
    "validate, pictures": (
        "vision",
        lambda world, out, partner: [
            "validate", world.small.data, "--llm", f"two={world.folder / 'two'}", "--adapter",
            f"x={world.folder / 'moved'}", "--vision", partner, "--limit", "2", "--device", "cpu",
        ],
    ),
    "check": (
        "features",
        lambda world, out, partner: [
            "check", world.folder / "moved", world.folder / "native", "--to", f"two={world.folder / 'two'}",
            "--features", partner,
        ],
    ),
    "transfer, scale by length": (
        "features",
        lambda world, out, partner: [
            "transfer", world.folder / "native", "--to", f"two={world.folder / 'two'}", "--scale", "rms", "--features",
            partner,
        ],
    ),
    "transfer, scale by captions": (
        "features",
        lambda world, out, partner: [
            "transfer", world.folder / "native", "--to", f"two={world.folder / 'two'}", "--scale", "captions",
            "--features", partner, "--data", world.small.data, "--device", "cpu",
        ],
    ),
}  # fmt: skip
"""The same for the vision encoder, or for features that were made with one."""


@pytest.fixture(scope="module", name="world")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> PartnerWorld:
    """Made once: no command changes it."""
    return make_partner_world(tmp_path_factory.mktemp("partners"))


def refuse_llm(world: PartnerWorld, out: Path, name: str, ending: str) -> None:
    """Assert that the command refuses an LLM with other weights or another tokenizer."""
    own, words = LLM_COMMANDS[name]
    message = error_of(vocabkit_here(world.folder, *words(world, out / "out", f"{world.folder / own}-{ending}")))
    expected = {
        "weights": f"other embedding rows than {own} had for the adapter (relative difference 1",
        "tokenizer": "its tokenizer ",
    }
    assert f"{own}-{ending}" in message
    assert expected[ending] in message
    assert {path.name for path in out.rglob("*")} <= {"out", "recipe.toml"}  # the recipe is the test's own


def take_moved_llm(world: PartnerWorld, out: Path, name: str) -> None:
    """Assert that the command takes the same LLM from another folder."""
    own, words = LLM_COMMANDS[name]
    done = vocabkit_here(world.folder, *words(world, out / "out", f"{world.folder / own}-moved"))
    assert done.returncode == 0, done.stderr
    assert "relative difference" not in done.stderr


def take_tuned_llm(world: PartnerWorld, out: Path, name: str) -> None:
    """Assert that the command takes an LLM with other weights if it is told so, with a note."""
    own, words = LLM_COMMANDS[name]
    given = words(world, out / "out", f"{world.folder / own}-weights")
    allowed = ["--set", "other_weights=true"] if given[0] == "train" else ["--other-weights"]
    done = vocabkit_here(world.folder, *given, *allowed)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"taken as {own}, with other embedding rows than it had for the adapter") == 1


def refuse_encoder(world: PartnerWorld, out: Path, name: str, ending: str) -> None:
    """Assert that the command refuses another vision encoder, or its features."""
    own, words = VISION_COMMANDS[name]
    message = error_of(vocabkit_here(world.folder, *words(world, out / "out", f"{world.folder / own}-{ending}")))
    assert f"{own}-{ending}: not the vision encoder that the adapter was trained with, " in message
    assert {path.name for path in out.rglob("*")} <= {"out", "recipe.toml"}  # the recipe is the test's own


def take_moved_encoder(world: PartnerWorld, out: Path, name: str) -> None:
    """Assert that the command takes the same encoder, or its features, from another folder."""
    own, words = VISION_COMMANDS[name]
    done = vocabkit_here(world.folder, *words(world, out / "out", f"{world.folder / own}-moved"))
    assert done.returncode == 0, done.stderr
    assert "note: " not in done.stderr
