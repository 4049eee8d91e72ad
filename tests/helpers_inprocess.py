"""`rushes curate` in this process: no Ray, decoded and cut once for all runs, and killed before its n-th change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers_curate import contents, table
from rich.console import Console

from curation import curate as curation
from curation.config import CurateConfig
from curation.dataset.accounting import Accounts
from curation.sandbox import Sandbox
from orchestration import tables
from orchestration.ledger import Ledger
from orchestration.storage import Storage


class Killed(BaseException):
    """What SIGKILL looks like from inside: no change after it reaches the dataset."""


class House:
    """Runs over one input folder. `cache` keeps what decoders and cutters made, by content and settings."""

    def __init__(self, raw: Path, cache: Path, patch: pytest.MonkeyPatch):
        self.raw, self._cache, self._left = raw, cache, -1
        for name in ("move", "remove", "remove_folder"):
            patch.setattr(Storage, name, self._counted(getattr(Storage, name)))
        patch.setattr(Sandbox, "run", self._remembered(Sandbox.run))
        patch.setattr(Ledger.pack, "__defaults__", (2, 2))  # small packs, and tables of several files
        patch.setattr(tables, "ROWS_PER_FILE", 1)
        patch.setattr(tables, "GROUP_BYTES", 4000)
        patch.setattr(curation, "run_rows", _run_rows)
        patch.setattr(curation, "LazyEngine", _NoEngine)

    def curate(self, output: Path, **settings: Any) -> Accounts:
        config = CurateConfig(input=str(self.raw), output=str(output), report={"enabled": False}, **settings)  # type: ignore[arg-type]
        return curation.curate(config, Console(quiet=True))

    @contextlib.contextmanager
    def killed_before(self, change: int) -> Iterator[list[bool]]:
        """The block is killed before its `change`-th rename or removal; the list it gets says afterwards if it was."""
        self._left, hit = change, []
        try:
            yield hit
        except Killed:
            hit.append(True)
        finally:
            self._left = -1

    def _counted(self, method: Any) -> Any:
        def call(storage: Storage, *arguments: Any) -> Any:
            if self._left == 0:
                raise Killed
            self._left -= self._left > 0
            # Nested changes are one: `remove_folder` of a bucket removes file by file.
            return method(storage, *arguments)

        return call

    def _remembered(self, method: Any) -> Any:
        def run(sandbox: Sandbox, job: str, beat: Any = None, **arguments: Any) -> Any:
            content = hashlib.sha256(Path(arguments["path"]).read_bytes()).hexdigest()
            places = [Path(request["target"]) for request in arguments.get("requests", ())]
            asked = {name: value for name, value in arguments.items() if name not in ("path", "folder", "requests")}
            spans = [request["span"] for request in arguments.get("requests", ())]
            key = hashlib.sha256(json.dumps([job, content, spans, asked], sort_keys=True).encode()).hexdigest()
            folder = self._cache / key
            if not folder.exists():
                result = method(sandbox, job, beat, **arguments)
                folder.mkdir(parents=True)
                made = [file for path in places for file in path.parent.glob(f"{path.stem}.*")]
                for path in made or ([] if places else Path(arguments["folder"]).iterdir()):
                    shutil.copy(path, folder)
                (folder / "result.json").write_text(json.dumps(result))
            elif "folder" in arguments:
                shutil.copytree(folder, arguments["folder"], dirs_exist_ok=True)
            for path in places:
                for file in folder.glob(f"{path.stem}.*"):  # a picture's clip has the picture's suffix
                    shutil.copy(file, path.parent)
            return json.loads((folder / "result.json").read_text())

        return run


class _NoEngine:
    engine = None

    def __init__(self, *_: Any):
        pass

    def __enter__(self) -> _NoEngine:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def _run_rows(running: Any, files: list[str], worker: Any, **_: Any) -> Iterator[dict[str, Any]]:
    work = worker()
    for name in files:
        for row in pq.read_table(name).to_pylist():
            yield work(row, lambda *_: None)


def everything(output: Path) -> dict[str, Any]:
    """Tables, with the places of the files, and media; fails if anything lies about that does not belong there."""
    assert not (output / "publishing").exists()
    assert not list(output.glob(".tmp/*"))
    found = contents(output)
    media = {row["media"] for row in table(output, "clips")} - {None}
    assert {str(path.relative_to(output)) for path in (output / "media").rglob("*.*")} == media
    files = [(row["uri"], row["status"], row["duplicate_of"], row["codec"]) for row in table(output, "videos")]
    return {**found, "files": files}
