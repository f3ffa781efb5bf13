"""Interpretations in the terminal: within the width, laid out like the patches, with tokens escaped."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from command_line import error_of, vocabkit, vocabkit_here
from rich.cells import cell_len
from rich.console import Console
from single_minded import saying

from vocabkit.interpret.results import Development, ImageInfo, Interpretation, Reading, Token
from vocabkit.report.interpretation import interpretation_report

if TYPE_CHECKING:
    from small_world import World

HOSTILE = {
    b" owl": "owl",
    b"\x1b[31mred": r"\x1b[31mred",
    "zero\u200bwidth".encode(): r"zero\u200bwid…",
    "\u202egnorw".encode(): r"\u202egnorw",
    b"\xff": r"\xff",
    b" ": "' '",
    b"\n\n": r"\n\n",
    b"[bold]x[/]": "[bold]x[/]",
    "漢字漢字漢字漢字漢字".encode(): "漢字漢字漢字…",
    b"internationalization": "international…",
}


def interpretation(tokens: list[bytes], grid: tuple[int, int], *, llms: int = 1, **changes: Any) -> Interpretation:
    """One image of these nearest tokens, patch by patch, with cosines from 1 downwards."""
    n, names = grid[0] * grid[1], tuple(f"llm-{number}" for number in range(llms))
    nearest = (np.arange(n) % len(tokens)).astype(np.int32)[:, None]
    values = np.linspace(1, 0, n, dtype=np.float32)[:, None]
    image = ImageInfo("a.png", Path("a.png"), (9, 9), (0, 0, 1, 1), "an owl.", ("owl",), ("owl",))
    readings = tuple(
        Reading(
            image=0, llm=name, checkpoint="adapter", nearest=nearest, cosines=values, names_object=np.ones(n, bool),
            rows=nearest, coefficients=values, entropy=values[:, 0], image_nearest=nearest[: len(tokens), 0],
            image_cosines=values[: len(tokens), 0], image_rows=nearest[: len(tokens), 0],
            image_mass=values[: len(tokens), 0],
        )
        for name in names
    )  # fmt: skip
    made = Interpretation(
        adapter="an adapter", head="softmax", vision="vision", grid=grid, top=1, llms=names,
        vocabularies=dict.fromkeys(names, 99), checkpoints=("adapter",), images=(image,), broken=(), readings=readings,
        development=tuple(Development(name, "adapter", 0.5, 0.25, 0.125, 1.5) for name in names),
        tokens={name: {number: Token(token, "text") for number, token in enumerate(tokens)} for name in names},
        rows={name: dict(enumerate(tokens)) for name in names},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def printed(found: Interpretation, width: int = 80, *, terminal: bool = False) -> list[str]:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=terminal, highlight=False, color_system="256" if terminal else None
    )
    console.print(interpretation_report(found))
    return file.getvalue().splitlines()


def test_words_are_laid_out_like_their_patches() -> None:
    lines = printed(interpretation([b"a", b"b", b"c", b"d", b"e", b"f"], (2, 3)))
    at = next(number for number, line in enumerate(lines) if "nearest in llm-0" in line)
    assert [line.split() for line in lines[at + 1 : at + 3]] == [["a", "b", "c"] * 2, ["d", "e", "f"] * 2]


@pytest.mark.parametrize("size", [1, 2, 5, 7, 12, 24, 27])
@pytest.mark.parametrize("llms", [1, 2, 3])
@pytest.mark.parametrize("width", [80, 40])
def test_report_keeps_to_the_width(size: int, llms: int, width: int) -> None:
    for line in printed(interpretation(list(HOSTILE), (size, size), llms=llms), width):
        assert cell_len(line) <= width, line


def test_large_grid_shows_the_clearest_of_neighbouring_patches() -> None:
    tokens = [f"w{number}".encode() for number in range(24 * 24)]
    lines = printed(interpretation(tokens, (24, 24)))
    at = next(number for number, line in enumerate(lines) if "the clearest of 3 x 3 patches" in line)
    assert lines[at + 1].split() == [f"w{3 * column}" for column in range(8)]
    assert lines[at + 2].split() == [f"w{3 * 24 + 3 * column}" for column in range(8)]


@pytest.mark.parametrize("token", HOSTILE)
def test_tokens_are_escaped(token: bytes) -> None:
    text = "\n".join(printed(interpretation([token], (1, 1))))
    assert all(character.isprintable() for character in text.replace("\n", ""))
    assert HOSTILE[token] in text


def test_right_to_left_words_do_not_reorder_what_follows() -> None:
    text = "\n".join(printed(interpretation(["שלום".encode(), b"next"], (1, 2))))
    assert "שלום\u200e" in text


def test_colours_appear_only_in_a_terminal() -> None:
    found = interpretation([b" owl", b"x"], (1, 2))
    assert "\x1b[1;32mowl" in "\n".join(printed(found, terminal=True))
    assert "\x1b" not in "\n".join(printed(found))


def test_checkpoints_give_a_table_per_llm() -> None:
    entries = [
        Development(f"llm-{llm}", f"step {step}", step / 10, None, None, None) for llm in range(2) for step in (1, 2)
    ]
    made = interpretation([b"x"], (1, 1), llms=2)
    readings = tuple(dataclasses.replace(reading, checkpoint="step 2") for reading in made.readings)
    made = dataclasses.replace(made, checkpoints=("step 1", "step 2"), development=tuple(entries), readings=readings)
    lines = [line.split() for line in printed(made)]
    assert lines.count(["step", "1", "0.100"]) == lines.count(["step", "2", "0.200"]) == 2


def test_command_prints_words_or_json_to_stdout(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    words = ["interpret", "adapter", world.data, "--llm", world.two, "--llm", world.one, "--limit", "1"]
    done = vocabkit(tmp_path, *words, "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.index("nearest in one") < done.stdout.index("nearest in two")

    found = json.loads(vocabkit(tmp_path, *words, "--json").stdout)
    assert found["llms"] == ["one", "two"]
    assert len(found["readings"]) == 2


def test_broken_pictures_are_reported_like_infer_does(world: World, tmp_path: Path) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    pictures = [world.data.parent / "0.png", "absent.png"]
    done = vocabkit_here(tmp_path, "interpret", "adapter", *pictures, "--llm", world.one, "--json")
    assert (
        done.returncode == vocabkit_here(tmp_path, "infer", "adapter", *pictures, "--out", "x", "--top", "1").returncode
    )
    assert done.stderr == ("1 of 2 pictures are missing or broken and were left out:\n  absent.png: no such file\n")
    found = json.loads(done.stdout)
    assert found["broken"] == ["absent.png: no such file"]
    assert len(found["images"]) == 1


def test_linear_head_shows_coefficients_but_no_mass_or_entropy(world: World, tmp_path: Path) -> None:
    saying(world, b"q", "linear").save(tmp_path / "adapter")
    text = vocabkit_here(tmp_path, "interpret", "adapter", world.data, "--llm", world.one, "--limit", "1").stdout
    assert "largest coefficient" in text
    assert "mass" not in text
    assert "entropy" not in text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["absent.png"], "none of 1 pictures can be used; the first: absent.png: no such file"),
        (["a.png", "--pool", "3"], "--pool '3' is not of the form"),
        (["a.png", "--checkpoints", "."], "no step-*/adapter"),
    ],
)
def test_bad_input_raises_in_one_line(world: World, tmp_path: Path, options: list[str], problem: str) -> None:
    saying(world, b"q").save(tmp_path / "adapter")
    (tmp_path / "a.png").write_bytes((world.data.parent / "0.png").read_bytes())
    assert problem in error_of(vocabkit_here(tmp_path, "interpret", "adapter", *options, "--llm", world.one))
