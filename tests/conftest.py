"""Fixtures of all tests: the sample videos, a browser."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curation.samples import SamplesError, fetch

# Shells start background programs with SIGINT ignored, and what those start inherits it; the tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray's workers and other processes that tests start find the helpers beside the tests.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))

SAMPLES = Path(os.environ.get("RUSHES_SAMPLES") or Path(__file__).parents[1] / ".cache" / "samples")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(autouse=True, scope="module")
def _stores_of_its_own() -> Iterator[None]:
    """Each file has a server of its own; what fsspec remembers of a store does not name the server."""
    yield
    if "s3fs" in sys.modules:
        sys.modules["s3fs"].S3FileSystem.clear_instance_cache()


def _fetched(which: str) -> list[Path]:
    try:
        return fetch(SAMPLES, which)
    except SamplesError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of the four small videos: bikes, bigbuckbunny, carphone_pristine, carphone_distorted (.mp4)."""
    return _fetched("small")[0].parent


@pytest.fixture(scope="session")
def film() -> Path:
    """bbb.mp4: 596 s, 1280x720, 24 frames/s, H.264. For slow tests."""
    return _fetched("film")[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: `make setup` installs it"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as tool:
        if binary is None and not Path(tool.chromium.executable_path).exists():
            pytest.skip("no Chromium found: `make setup` installs it where it can")
        chromium = tool.chromium.launch(executable_path=binary, args=FLAGS)
        yield chromium
        chromium.close()
