"""What a stage hands to the report's shell, and the template environment it writes it with."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestration.report import formats

TEMPLATES = Path(__file__).parent / "templates"
LIMIT = 25 * 1000 * 1000  # bytes of the whole file


@dataclass(frozen=True)
class Section:
    """A titled part of a page. `html` comes from a template, so all data in it is escaped."""

    title: str
    slug: str
    html: Markup
    lead: str = ""  # one plain sentence under the title


@dataclass(frozen=True)
class Page:
    """One stage's part of the report.

    `charts` maps a chart id to the specification that report.js draws, `records` maps a key to what the detail dialog
    shows, and `fields` says what the values of every record are, all JSON values (see templates/report.js). `previews`
    are MP4 files by record key, the most important first: the last are left out where the report would grow too large.
    Chart ids differ from those of other pages; records of several pages may be of the same key, and then their previews
    show the same. `script` runs after report.js, `style` comes after report.css.
    """

    title: str
    slug: str
    sections: tuple[Section, ...]
    charts: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)
    fields: Sequence[Mapping[str, str]] = ()
    previews: Mapping[str, bytes] = field(default_factory=dict)
    script: str = ""
    style: str = ""
    made: datetime.datetime = field(default_factory=lambda: datetime.datetime.now(datetime.UTC))


def environment(*folders: Path) -> Environment:
    """Templates of `folders` and the shell's own (parts.html holds the shared macros); everything is escaped."""
    env = Environment(
        loader=FileSystemLoader([*folders, TEMPLATES]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    env.filters |= {
        "count": formats.count,
        "number": formats.number,
        "duration": formats.duration,
        "clock": formats.clock,
        "size": formats.size,
        "share": formats.share,
        "short": formats.short,
        "plural": formats.plural,
    }
    return env


def data_uri(mime: str, data: bytes) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
