"""Building blocks of all pages: templates, visible tokens, and packed data for scripts."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from vocabkit.errors import needs_extra
from vocabkit.report.layout import printable, spelled

with needs_extra("report", "an HTML page"):
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

_TEMPLATES = files("vocabkit.report.html") / "templates"
_SPACE_OR_ESCAPE = re.compile(r"( )|(\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|.))")


@dataclass(frozen=True)
class Origin:
    """What a page was made with and from, for its footer."""

    command: str
    sources: Mapping[str, str]
    """Name -> fingerprint."""

    @property
    def version(self) -> str:
        """The version of vocabkit."""
        return version("vocabkit")

    @property
    def date(self) -> str:
        """Today, in UTC; or that of SOURCE_DATE_EPOCH (reproducible-builds.org), in seconds since 1970."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        return f"{datetime.fromtimestamp(int(epoch), UTC) if epoch.isdecimal() else datetime.now(UTC):%Y-%m-%d}"


def render(template: str, origin: Origin, *, scripts: Sequence[str] = (), data: Any = None, **content: Any) -> str:
    """Render a page.

    Args:
        template: file in templates/, rendered with `content`.
        scripts: files in templates/, joined into the only script that the page's Content-Security-Policy allows.
        data: JSON-like, read by the scripts with `await pageData()`.
    """
    environment = Environment(
        loader=PackageLoader("vocabkit.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"token": token, "name": printable, "share": share, "number": "{:,}".format}
    script = "".join(_source(name) for name in scripts)
    return environment.get_template(template).render(
        **content,
        origin=origin,
        style=Markup(_source("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=None if data is None else pack(data),
    )


def token(value: bytes | str) -> Markup:
    """A token, or its `spelled` form, as HTML: isolated from the direction of the surrounding text, with spaces and
    escapes marked. `showToken` in data.js does the same.
    """
    text = value if isinstance(value, str) else spelled(value)
    marked = Markup("")
    start = 0
    for match in _SPACE_OR_ESCAPE.finditer(text):
        marked += escape(text[start : match.start()])
        marked += Markup('<span class="{}">{}</span>').format("space" if match[1] else "escape", match[0])
        start = match.end()
    return Markup('<bdi class="token">{}</bdi>').format(marked + escape(text[start:]))


def share(value: float | None) -> str:
    """A fraction in percent."""
    return "–" if value is None else f"{value:.1%}"


def pack(data: Any) -> str:
    """Compressed JSON in base64: reproducible, and safe inside a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def _source(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8")
