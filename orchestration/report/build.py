"""Puts pages into one HTML file: styles, scripts, charts and media inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
from collections.abc import Sequence
from functools import cache

from plotly.offline import get_plotlyjs

from orchestration.errors import RushesError
from orchestration.report.page import LIMIT, TEMPLATES, Page, environment
from orchestration.storage import Storage

NAME = "report/index.html"


def build_report(
    storage: Storage,
    pages: Sequence[Page],
    title: str,
    *,
    subtitle: str = "",
    made: datetime.datetime | None = None,
    name: str = NAME,
    limit: int = LIMIT,
) -> int:
    """Write the report and return its size in bytes, which is never above `limit`.

    Previews are added in each page's order while they fit; what does not fit is named in the report. Equal input and
    equal `made` give equal bytes. Raises RushesError where the text and pictures alone are too large.
    """
    made = made or datetime.datetime.now(datetime.UTC)
    bare = _render(pages, title, subtitle, made, {}, 0)
    room = limit - len(bare) - 100_000  # the previews' keys and the note about left out ones come on top
    if room < 0:
        raise RushesError(f"the report would take {len(bare):,} bytes without previews; the limit is {limit:,}")
    previews, left_out = _fitting(pages, room)
    data = _render(pages, title, subtitle, made, previews, left_out)
    storage.write_bytes(name, data)
    return len(data)


def _fitting(pages: Sequence[Page], room: int) -> tuple[dict[str, str], int]:
    """Previews as base64 while they fit into `room` bytes, and how many do not."""
    chosen: dict[str, str] = {}
    left_out = 0
    for page in pages:
        for key, data in page.previews.items():
            cost = -(-len(data) // 3) * 4 + 6 * len(key) + 8
            if cost > room:
                left_out += 1
                continue
            room -= cost
            chosen[key] = base64.b64encode(data).decode()
    return chosen, left_out


def _render(
    pages: Sequence[Page],
    title: str,
    subtitle: str,
    made: datetime.datetime,
    previews: dict[str, str],
    left_out: int,
) -> bytes:
    theme = _asset("theme.js")
    plotly = get_plotlyjs()
    scripts = [_asset("report.js"), *(page.script for page in pages if page.script)]
    data = {
        "title": title,
        "charts": {key: chart for page in pages for key, chart in page.charts.items()},
        "records": {key: {**record, "page": page.slug} for page in pages for key, record in page.records.items()},
        "fields": {page.slug: page.fields for page in pages},
        "previews": sorted(previews),
    }
    html = (
        environment()
        .get_template("shell.html")
        .render(
            title=title,
            subtitle=subtitle,
            made=made.strftime("%Y-%m-%d %H:%M %Z").strip(),
            pages=pages,
            policy=_policy([theme, plotly, *scripts]),
            style=_asset("report.css"),
            theme=theme,
            scripts=scripts,
            plotly=_packed_plotly() if data["charts"] else "",
            data=data,
            previews=previews,
            left_out=left_out,
        )
    )
    return html.encode("utf-8", "replace")


def _asset(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _packed_plotly() -> str:
    """Plotly, gzipped and in base64: 2 MB in place of 4.8, unpacked in the browser after the first paint."""
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _policy(scripts: list[str]) -> str:
    """Content security policy: exactly these scripts may run, and nothing may be fetched, framed or sent anywhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
