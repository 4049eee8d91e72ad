"""Pages as files: each command makes its own, and the report is put together of all that there are."""

from __future__ import annotations

import base64
import datetime
import json

from markupsafe import Markup

from orchestration.errors import RushesError
from orchestration.report.page import Page, Section
from orchestration.storage import Storage

FOLDER = "report/pages"
ORDER = ("curation", "captions", "vae", "latents", "training")  # slugs, as the report shows them


def save_page(storage: Storage, page: Page) -> None:
    """Store a page in place of the one of the same slug, for `build_report`. Equal pages give equal bytes."""
    data = {
        "title": page.title,
        "slug": page.slug,
        "made": page.made.isoformat(),
        "sections": [[part.title, part.slug, str(part.html), part.lead] for part in page.sections],
        "charts": dict(page.charts),
        "records": dict(page.records),
        "fields": list(page.fields),
        "previews": {key: base64.b64encode(media).decode() for key, media in page.previews.items()},
        "script": page.script,
        "style": page.style,
    }
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    storage.write_bytes(f"{FOLDER}/{page.slug}.json", text.encode())


def load_pages(storage: Storage) -> list[Page]:
    """All that were saved, in the order of ORDER. Raises RushesError with the name of one that cannot be read."""
    pages = [_load(storage, name) for name in storage.list(FOLDER, ".json")]
    places = {slug: place for place, slug in enumerate(ORDER)}
    return sorted(pages, key=lambda page: (places.get(page.slug, len(ORDER)), page.slug))


def _load(storage: Storage, name: str) -> Page:
    try:
        data = json.loads(storage.read_bytes(name))
        return Page(
            title=data["title"],
            slug=data["slug"],
            sections=tuple(
                Section(title, slug, Markup(html), lead)  # a template escaped it before it was saved
                for title, slug, html, lead in data["sections"]
            ),
            charts=data["charts"],
            records=data["records"],
            fields=data["fields"],
            previews={key: base64.b64decode(media) for key, media in data["previews"].items()},
            script=data["script"],
            style=data["style"],
            made=datetime.datetime.fromisoformat(data["made"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RushesError(
            f"{storage.path(name)} is not a page of the report: {error}. Remove it; the command that made it "
            "makes it anew"
        ) from error
