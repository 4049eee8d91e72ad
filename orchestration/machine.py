"""Findings about the machine and the installation that every stage shares."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import psutil

from orchestration.doctor import Check

GIB = 2**30
REINSTALL = "run `make setup`, or pip install -e . again"


def python() -> Check:
    detail = f"{platform.python_implementation()} {platform.python_version()}, {platform.system()} {platform.machine()}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Check("Python", "ok", detail)
    return Check("Python", "fail", detail, "Python 3.11 to 3.13 is needed: make setup PYTHON=python3.12")


def packages() -> Check:
    """Installed versions against what rushes asks for."""
    from packaging.requirements import Requirement

    wrong, found = [], {}
    # A build may leave an egg-info of another day in the working folder; what is installed has a RECORD.
    installed = next((each for each in metadata.distributions(name="rushes") if each.read_text("RECORD")), None)
    if installed is None:
        return Check("packages", "fail", "rushes itself is not installed", REINSTALL)
    for line in installed.requires or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found[requirement.name] = version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is not {requirement.specifier}")
    if wrong:
        return Check("packages", "fail", "; ".join(wrong), REINSTALL)
    owners = {name: metadata.version(name) for name in metadata.packages_distributions().get("cv2", ())}
    if len(set(owners.values())) > 1:
        detail = " and ".join(f"{name} {version}" for name, version in owners.items())
        return Check("packages", "warn", f"cv2 comes from {detail}", "install one of them, or the same version of both")
    shown = ", ".join(f"{name} {found[name]}" for name in ("av", "opencv-python", "numpy", "pyarrow", "ray"))
    return Check("packages", "ok", f"{len(found)} as required; {shown}")


def usable_cpus() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes, within the limit of a container."""
    return _memory()[1]


def _memory() -> tuple[int, int]:
    """(total, available) bytes."""
    facts = psutil.virtual_memory()
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit and limit < facts.total:
        return limit, min(facts.available, limit - (used or 0))
    return facts.total, facts.available


def cpu() -> Check:
    usable = usable_cpus()
    load = os.getloadavg()[0]
    detail = f"{usable} usable cores, load {load:.1f}"
    if load > usable:
        return Check("CPU", "warn", detail, "other programs keep the cores busy: a run will be slower")
    return Check("CPU", "ok", detail)


def memory() -> Check:
    total, available = _memory()
    detail = f"{available / GIB:.1f} of {total / GIB:.1f} GiB available"
    if available < 2 * GIB:
        return Check("memory", "warn", detail, "a worker takes about 1.5 GiB: close programs, or set ray.workers=1")
    return Check("memory", "ok", detail)


def disk(folder: Path) -> Check:
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            "scratch", "fail", f"{folder}: {error.strerror}", "name a folder that can be written: scratch=FOLDER"
        )
    detail = f"{free / GIB:.0f} GiB free in {folder}"
    if free < 10 * GIB:
        advice = "objects are fetched here one a worker: name a larger disk with scratch=FOLDER"
        return Check("scratch", "fail" if free < GIB else "warn", detail, advice)
    return Check("scratch", "ok", detail)


def shared_memory() -> Check:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Check("shared memory", "ok", "no /dev/shm on this system; Ray uses files")
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free in /dev/shm"
    if free < GIB // 2:
        return Check(
            "shared memory", "warn", detail, "Ray falls back to the disk; in a container, give it --shm-size=2g"
        )
    return Check("shared memory", "ok", detail)


def gpu() -> Check:
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    found = run(query, 20) if shutil.which("nvidia-smi") else None
    if found is None or found.returncode or not found.stdout.strip():
        return Check("GPU", "ok", "none; curation needs none")
    detail = "; ".join(found.stdout.strip().splitlines())
    if find_spec("torch") is None:
        return Check("GPU", "ok", f"{detail}; torch is not installed, curation needs it only for TransNetV2")
    torch = run([sys.executable, "-c", "import torch; print(torch.__version__, torch.cuda.is_available())"], 120)
    if torch.stdout.strip().endswith("True"):
        return Check("GPU", "ok", f"{detail}; torch {torch.stdout.split()[0]} uses it")
    advice = "this torch is a CPU build: make setup CONSTRAINTS= with an index that carries the CUDA build"
    return Check("GPU", "warn", f"{detail}; torch does not see it: {last_line(torch) or torch.stdout.strip()}", advice)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def run(command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout:g} s")


def run_python(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", code, *arguments], timeout)


def last_line(outcome: subprocess.CompletedProcess[str]) -> str:
    lines = outcome.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {outcome.returncode}"
