"""Recordings of a browser for the label of screenshots: pages of the repository's own texts and code, scrolled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from labels_clips import FRAMES, Clip, Video, fill

_STYLE = "<style>body{font:13px sans-serif;margin:14px;background:%s;color:%s}table{border-collapse:collapse}"
_STYLE += "td,th{border:1px solid #999;padding:3px 8px}pre{background:%s;padding:8px}h1{font-size:20px}"
_STYLE += "nav{background:#246;color:#fff;padding:8px}input,button,select{margin:5px;padding:4px}</style>"


def pages(root: Path) -> dict[str, list[tuple[str, str, str]]]:
    """Half → (kind, source, HTML): made of the repository's own texts and code."""

    def text(name: str) -> str:
        return (root / name).read_text().replace("&", "&amp;").replace("<", "&lt;")

    light, dark = _STYLE % ("#fff", "#222", "#eee"), _STYLE % ("#1e1e1e", "#d4d4d4", "#1e1e1e")
    rows = [f"<tr><td>{n}</td><td>clip {n * 7}</td><td>{n * 0.37:.2f}</td><td>kept</td></tr>" for n in range(80)]
    paragraphs = "".join(f"<p>{part}</p>" for part in text("docs/architecture.md").split("\n\n"))
    fields = "".join(
        f"<div>Field {n} <input value='value {n}'><select><option>a</option></select></div>" for n in range(40)
    )
    return {
        "fit": [
            (
                "web page",
                "docs/architecture.md",
                f"{light}<nav>Home · Docs · About</nav><h1>Architecture</h1>{paragraphs}",
            ),
            (
                "web page",
                "docs/select.md",
                f"{light}<nav>Home</nav><div style='columns:2'>{text('docs/select.md')}</div>",
            ),
            ("code", "curation/video.py", f"{light}<pre>{text('curation/video.py')}</pre>"),
            ("code", "curation/decode.py", f"{dark}<pre>{text('curation/decode.py')}</pre>"),
            ("table", "numbers", f"{light}<h1>Clips</h1><table>{''.join(rows)}</table>"),
        ],
        "held": [
            ("form", "settings", f"{light}<nav>Settings</nav>{fields}<button>Save</button>"),
            ("form", "settings, dark", f"{dark}<nav>Settings</nav>{fields}<button>Save</button>"),
            ("dark editor", "curation/cut.py", f"{dark}<pre>{text('curation/cut.py')}</pre>"),
            (
                "dark editor",
                "curation/select.py",
                f"{dark}<pre style='font-size:18px'>{text('curation/select.py')}</pre>",
            ),
            (
                "web page",
                "README.md",
                f"{light}<nav style='background:#fff;color:#222'>R</nav><pre>{text('README.md')}</pre>",
            ),
            ("table", "wide", f"{dark}<table style='font-size:9px;width:100%'>{''.join(reversed(rows))}</table>"),
        ],
    }


def recordings(root: Path) -> Iterator[Clip]:
    """Pages in headless Chromium, scrolled by hand (in steps and pauses), at three zooms. None without Chromium."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if binary is None:
        print("No Chromium: clips of web pages are left out.")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=binary, args=["--no-sandbox", "--disable-gpu"])
        for half, listed in pages(root).items():
            for number, (turn, (kind, source, html)) in enumerate(product(range(2), listed)):
                page = browser.new_page(
                    viewport={"width": (640, 800, 960)[number % 3], "height": (360, 450, 540)[number % 3]}
                )
                page.set_content(f"<!doctype html>{html}")
                page.evaluate(f"scrollTo(0, {600 * turn})")
                yield Clip(kind, half, source, _scrolled(page, number))
                page.close()
        browser.close()


def _scrolled(page: Any, number: int) -> Video:
    def shot() -> np.ndarray:
        data = np.frombuffer(page.screenshot(type="png"), np.uint8)
        return fill(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)))

    frames: Sequence[np.ndarray] = []
    steps = ([0] * 4 + [30] * 6, [0, 200, 0, 0, 200, 0], [12] * 12, [0, 0, 0, 0])[number % 4]
    for step in steps:
        page.evaluate(f"scrollBy(0, {step})")
        frames = [*frames, shot()]
    return [frames[min(len(frames) - 1, n * len(frames) // FRAMES)] for n in range(FRAMES)]
