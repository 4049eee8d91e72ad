"""Puts pages into one HTML file: styles, scripts, charts and media inside, nothing fetched from anywhere."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Sequence
from functools import cache
from itertools import chain, zip_longest

from plotly.offline import get_plotlyjs

from orchestration.errors import RushesError
from orchestration.report.page import LIMIT, TEMPLATES, Page, environment
from orchestration.report.store import load_pages
from orchestration.storage import Storage

NAME = "report/index.html"


def build_report(storage: Storage, title: str, *, subtitle: str = "", limit: int = LIMIT) -> int:
    """Write the report of all pages that were saved (see store.py); the rest is as for `write_pages`."""
    return write_pages(storage, NAME, load_pages(storage), title, subtitle=subtitle, limit=limit)


def write_pages(
    storage: Storage, name: str, pages: Sequence[Page], title: str, *, subtitle: str = "", limit: int = LIMIT
) -> int:
    """Write a file of these pages and return its size in bytes, which is never above `limit`.

    Previews are added in each page's order, in turn, while they fit; what does not fit is named in the file. Equal
    pages give equal bytes. Raises RushesError where the text and pictures alone are too large.
    """
    bare = _render(pages, title, subtitle, {}, 0)
    room = limit - len(bare) - 100_000  # the previews' keys and the note about left out ones come on top
    if room < 0:
        raise RushesError(f"the report would take {len(bare):,} bytes without previews; the limit is {limit:,}")
    previews, left_out = _fitting(pages, room)
    data = _render(pages, title, subtitle, previews, left_out)
    storage.write_bytes(name, data)
    return len(data)


def _fitting(pages: Sequence[Page], room: int) -> tuple[dict[str, str], int]:
    """Previews as base64 while they fit into `room` bytes, and how many do not."""
    chosen: dict[str, str] = {}
    left_out: set[str] = set()
    in_turn = chain.from_iterable(zip_longest(*(page.previews.items() for page in pages)))
    for key, data in filter(None, in_turn):
        cost = -(-len(data) // 3) * 4 + 6 * len(key) + 8
        if key in chosen:
            continue
        if cost > room:
            left_out.add(key)
            continue
        room -= cost
        chosen[key] = base64.b64encode(data).decode()
    return chosen, len(left_out - chosen.keys())


def _render(pages: Sequence[Page], title: str, subtitle: str, previews: dict[str, str], left_out: int) -> bytes:
    theme = _asset("theme.js")
    plotly = get_plotlyjs()
    scripts = [_asset("report.js"), *(page.script for page in pages if page.script)]
    data = {
        "title": title,
        "charts": {key: chart for page in pages for key, chart in page.charts.items()},
        "records": {page.slug: page.records for page in pages},
        "fields": {page.slug: page.fields for page in pages},
        "previews": sorted(previews),
    }
    html = (
        environment()
        .get_template("shell.html")
        .render(
            title=title,
            subtitle=subtitle,
            pages=pages,
            policy=_policy([theme, plotly, *scripts]),
            style="\n".join([_asset("report.css"), *(page.style for page in pages if page.style)]),
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
