"""The sandbox under real faults: what happens to a job, what its caller is told, and that the next job is untouched."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from helpers_media import ffmpeg, scan_video

from curation.cut import CutConfig
from curation.decode import DecodeConfig
from curation.plan import MeasurePlan
from curation.sandbox import JobFailed, Sandbox, SandboxBroken

PLAN = MeasurePlan().model_dump(mode="json")


@pytest.fixture(scope="module")
def long(samples, tmp_path_factory) -> Path:
    """A video that takes several seconds to decode."""
    path = tmp_path_factory.mktemp("sandbox") / "long.mp4"
    ffmpeg("-stream_loop", "30", "-i", samples / "bikes.mp4", "-c", "copy", path)
    return path


@pytest.fixture
def sandbox():
    sandbox = Sandbox(stall_s=20)
    yield sandbox
    sandbox.close()


def decode(sandbox: Sandbox, path: Path, folder: Path, beat=None, **config) -> dict:
    folder.mkdir(exist_ok=True)
    settings = DecodeConfig.model_validate(config).model_dump(mode="json")
    return sandbox.run("decode", beat, path=str(path), folder=str(folder), config=settings, plan=PLAN)


def helper_of(sandbox: Sandbox) -> psutil.Process:
    assert sandbox._helper is not None
    return psutil.Process(sandbox._helper.pid)


def strike(sandbox: Sandbox, number: signal.Signals, whom: str = "child"):
    """A beat that sends a signal at the first sign of life."""
    struck: list[int] = []

    def beat(message) -> None:
        if not struck:
            victim = helper_of(sandbox) if whom == "helper" else helper_of(sandbox).children()[0]
            struck.append(victim.pid)
            victim.send_signal(number)

    return beat


@pytest.mark.parametrize(
    ("number", "whom", "reason", "retryable"),
    [
        (signal.SIGSEGV, "child", r"decoder crashed \(SIGSEGV\)", False),
        (signal.SIGKILL, "child", r"decoder crashed \(SIGKILL\)", True),
        (signal.SIGSTOP, "child", "decoder hung: no progress for 2 s", True),
        (signal.SIGKILL, "helper", "decoder crashed", True),
        (signal.SIGSTOP, "helper", "decoder hung: no progress for 2 s", True),
    ],
)
def test_signals(samples, long, tmp_path, number, whom, reason, retryable):
    others = psutil.Process().children(recursive=True)  # sandboxes that earlier tests still hold
    sandbox = Sandbox(stall_s=2)
    with contextlib.closing(sandbox):
        sandbox.run("probe", path=str(long))
        before = helper_of(sandbox)
        with pytest.raises(JobFailed, match=reason) as failure:
            decode(sandbox, long, tmp_path / "a", strike(sandbox, number, whom))
        assert failure.value.retryable == retryable
        assert sandbox.run("probe", path=str(samples / "bikes.mp4"))["codec"] == "h264"
        if whom == "helper" or number == signal.SIGSTOP:
            psutil.wait_procs([before], timeout=5)
            assert not before.is_running()
    mine = [process for process in psutil.Process().children(recursive=True) if process not in others]
    psutil.wait_procs(mine, timeout=5)
    assert not [process for process in mine if process.is_running() and "sandbox" in " ".join(process.cmdline())]


def test_a_helper_that_died_meanwhile_costs_nobody_a_job(sandbox, samples):
    for _ in range(3):
        sandbox.run("probe", path=str(samples / "bikes.mp4"))
        helper_of(sandbox).kill()


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_in_beat_ends_the_job_and_results_never_mix(sandbox, samples, long, tmp_path, error):
    def beat(message) -> None:
        raise error

    with pytest.raises(error):
        decode(sandbox, long, tmp_path / "a", beat)
    assert sandbox.run("probe", path=str(samples / "bigbuckbunny.mp4"))["height"] != 272
    assert decode(sandbox, samples / "bikes.mp4", tmp_path / "b")["info"]["width"] == 640


def test_messages_of_another_job_do_not_count(sandbox, samples):
    sandbox.run("probe", path=str(samples / "bikes.mp4"))
    sandbox._buffer += (
        b'{"number": 1, "result": "stale"}\n{"number": 1, "exit": 0}\n{"number": 7, "exit": 0}\n[1]\n{"hal\n'
    )
    assert sandbox.run("probe", path=str(samples / "bikes.mp4"))["width"] == 640


def test_memory_limit(samples, long, tmp_path):
    with contextlib.closing(Sandbox(memory_gb=0.2)) as small:
        with pytest.raises(JobFailed, match=r"out of memory \(limit 0.2 GB\)") as failure:
            decode(small, long, tmp_path / "a")
        assert failure.value.retryable
    with contextlib.closing(Sandbox(memory_gb=6)) as enough:
        decode(enough, samples / "bikes.mp4", tmp_path / "b")


def test_time_limits(samples, long, tmp_path):
    with contextlib.closing(Sandbox(work_h=1.5 / 3600)) as sandbox:
        with pytest.raises(JobFailed, match=r"too slow: .*decode.max_work_h"):
            decode(sandbox, long, tmp_path / "a")
        sandbox.run("probe", path=str(samples / "bikes.mp4"))
    with contextlib.closing(Sandbox()) as sandbox:
        with pytest.raises(JobFailed, match=r"too slow: a frame takes over 0.0001 s"):
            decode(sandbox, long, tmp_path / "a", slow_s=0.0001, stall_s=0.1)
        with pytest.raises(JobFailed, match=r"too long: over 0.001 hours"):
            decode(sandbox, long, tmp_path / "a", max_hours=0.001)


def test_a_cut_that_takes_longer_than_a_stall_is_alive(long, tmp_path):
    scan = scan_video(long)
    request = scan.request(0, 400, tmp_path / "clip.mp4")
    fields = ("start_pts", "end_pts", "first_hash", "last_hash", "frames_hash")
    job = {"span": list(request.span), "target": str(request.target), **{f: getattr(request, f) for f in fields}}
    config = CutConfig(mode="encode", preset="faster").model_dump(mode="json")
    with contextlib.closing(Sandbox(stall_s=1.5)) as sandbox:
        beats = []
        began = time.monotonic()
        (result,) = sandbox.run("cut", beats.append, path=str(long), config=config, requests=[job])
        assert time.monotonic() - began > 1.5, "too fast to show anything"
    assert result["cut"] == "encode"
    assert beats


def test_a_full_disk_is_not_the_videos_fault(sandbox, samples):
    with pytest.raises(OSError, match="no space") as failure:
        sandbox._conclude(256, {"error": "OSError: no space", "errno": errno.ENOSPC})
    assert failure.value.errno == errno.ENOSPC


def test_what_a_job_is_given(sandbox, samples, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-51")
    sandbox.run("probe", path=str(samples / "bikes.mp4"))
    helper = helper_of(sandbox)
    assert not {"HOME", "AWS_SECRET_ACCESS_KEY"} & set(helper.environ())
    status = Path(f"/proc/{helper.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert helper.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert 0 < helper.rlimit(psutil.RLIMIT_FSIZE)[0] < 2**40


def test_a_helper_that_cannot_start_is_no_videos_fault(samples, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with contextlib.closing(Sandbox()) as sandbox, pytest.raises(SandboxBroken, match="rushes doctor"):
        sandbox.run("probe", path=str(samples / "bikes.mp4"))
