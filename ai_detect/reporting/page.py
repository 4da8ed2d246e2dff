"""Templates to text: one environment that makes untrusted text of the log visible, then escapes it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ai_detect.reporting.wording import duration, p_text, percent, readable_time, visible

KIND_NAMES = {
    "unseen_event": "new message",
    "rare_event": "rare message",
    "order": "out of place",
    "count": "too many",
    "missing": "missing",
    "gap": "delay",
    "length": "length",
    "value": "odd value",
}
#: A figure for a desktop page and the same for a phone; a page holds both and shows one. Their widths in inches.
FigurePair = tuple[Markup, Markup]
WIDE, NARROW = 10.4, 4.2

_TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name is None or not name.endswith(".md.j2"),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    environment.filters |= {
        "code": _with_code,
        "percent": percent,
        "p": p_text,
        "duration": duration,
        "number": "{:,}".format,
        "time": readable_time,
        "cell": _cell,
    }
    script = (_TEMPLATES / "page.js").read_text("utf-8")
    environment.globals |= {
        "style": Markup((_TEMPLATES / "page.css").read_text("utf-8")),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "kind_names": KIND_NAMES,
    }
    return environment


def _cell(text: str) -> str:
    """Text of the log in a cell of a Markdown table: what Markdown or HTML would take as its own is escaped."""
    parts = re.sub(r"\s+", " ", visible(text)).split("`")
    escaped = [
        f"`{part}`".replace("|", "\\|") if at % 2 else re.sub(r"([\\|*_\[\]<>&#~!])", r"\\\1", part)
        for at, part in enumerate(parts)
    ]
    return "".join(escaped)


def _with_code(sentence: str) -> Markup:
    """A sentence `kind: what` with the kind in bold and the parts between backticks as code."""
    parts = [escape(visible(part)) for part in sentence.split("`")]
    lead, colon, rest = parts[0].partition(":")
    if colon:
        parts[0] = Markup("<b>{}</b>{}").format(lead, rest)
    return Markup().join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def both(draw: Callable[[float], str], wide: float = WIDE) -> FigurePair:
    """The same figure for a desktop page and for a phone."""
    return Markup(draw(wide)), Markup(draw(NARROW))
