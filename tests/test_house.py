"""The repository itself: Makefile, README, sizes of files, and the wheel as it works outside of the repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = [
    *("setup", "curate", "caption", "latents", "train", "demo", "vae", "test", "test-slow"),
    *("check", "samples", "report", "bench", "clean", "help"),
]
PACKAGES = ["captioning", "curation", "latents", "model", "orchestration", "train"]


def run(*command: str, cwd: Path = ROOT, **environment: str) -> str:
    outcome = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


def tracked() -> list[Path]:
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the tracked files: setuptools leaves build folders beside what it builds."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in tracked():
        copy = source / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(target), ".", cwd=source)
    (found,) = target.glob("rushes-*.whl")
    return found


def test_make_alone_is_help_and_lists_every_target():
    text = run("make", "--no-print-directory")
    assert text == run("make", "--no-print-directory", "help")
    assert sorted(re.findall(r"^  ([a-z-]+) +\S", text, re.M)) == sorted(TARGETS)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert phony
    assert set(phony[1].split()) == {*TARGETS, "force"}


def test_make_curate_names_what_is_missing():
    command = ["make", "curate", "INPUT=somewhere"]
    # `make test` hands its own variables on.
    fresh = {
        key: value for key, value in os.environ.items() if key not in ("INPUT", "OUTPUT", "MAKEFLAGS", "MAKELEVEL")
    }
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=fresh)
    assert outcome.returncode == 2
    assert "OUTPUT" in outcome.stderr


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
    run("bash", "-n", str(script))


def test_readme_shows_the_commands_and_links_to_files():
    text = (ROOT / "README.md").read_text()
    from orchestration.cli import COMMANDS

    assert not [name for name in COMMANDS if not re.search(rf"^rushes {name}\b", text, re.M)]
    for link in re.findall(r"\]\(([^)#:]+)[^)]*\)", text):
        assert (ROOT / link).exists(), link


def test_files_are_small():
    shipped = ROOT / "model" / "weights"  # the VAE that comes with rushes
    large = [p.name for p in tracked() if p.stat().st_size > (20e6 if p.is_relative_to(shipped) else 1e6)]
    assert not large, "videos, other weights and data sets do not belong into the repository"
    code = [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] != "tests"]
    long = {path.name: lines for path in code if (lines := len(path.read_text().splitlines())) > 400}
    assert not long, "one file, one job"


def test_constraints_hold_every_direct_dependency():
    from importlib.metadata import distributions

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = [line for line in (ROOT / "constraints-cpu.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert all(pinned.values())
    installed = next(each for each in distributions(name="rushes") if each.read_text("RECORD"))
    for line in installed.requires or ():
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        optional = requirement.marker and not requirement.marker.evaluate({"extra": "dev"})
        if optional or name in ("rushes", "setuptools") or name not in pinned:
            assert optional or name in ("rushes", "setuptools"), f"{name} is not in constraints-cpu.txt"
            continue
        assert requirement.specifier.contains(pinned[name]), line


def test_wheel_holds_every_package_and_template(wheel: Path):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"{package}/__init__.py" for package in PACKAGES} <= inside
    for path in tracked():
        name = path.relative_to(ROOT)
        if name.parts[0] in PACKAGES and path.name != ".gitkeep":
            assert name.as_posix() in inside, f"{name} is not in the wheel: see package-data in pyproject.toml"
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/"))]


def test_wheel_works_outside_of_the_repository(wheel: Path, tmp_path: Path):
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "install", "--quiet", "--no-deps", "--target", str(target), str(wheel), cwd=tmp_path)
    code = (
        "import importlib, pathlib, sys\n"
        "from orchestration.cli import COMMANDS\n"
        "for place in COMMANDS.values():\n"
        "    module, _, function = place.partition(':')\n"
        "    assert callable(getattr(importlib.import_module(module), function)), place\n"
        f"for name in {PACKAGES!r}:\n"
        "    file = pathlib.Path(importlib.import_module(name).__file__)\n"
        "    assert file.is_relative_to(sys.argv[1]), file\n"
    )
    run(sys.executable, "-c", code, str(target), cwd=tmp_path, PYTHONPATH=str(target))
