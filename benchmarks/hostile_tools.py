"""What OpenCV, PyAV and decord do with a file: each read in a forked child with limits of memory and time.

As a program (`serve`) it takes a line of JSON a file, [tool, path], and answers with one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hostile_foreign import FOREIGN, Canary
from hostile_reel import number_of
from hostile_truth import Made

TOOLS = ("OpenCV", "PyAV", "decord")
OUTCOMES = ("right", "wrong", "error", "crash", "hang", "foreign")
MEMORY, SECONDS = 4 * 2**30, 20
MOST = 4000  # frames of a file that are looked at


@dataclass(frozen=True)
class Seen:
    """What a tool gave of a file: for each frame its number and a digest of its pixels; and how it ended."""

    frames: tuple[tuple[int | None, str], ...]
    end: str  # "" at the end of the file, else error, crash or hang


class Reader:
    """Asks the process that reads."""

    def __init__(self) -> None:
        code = "import hostile_tools; hostile_tools.serve()"
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd="/",
        )

    def read(self, tool: str, path: str) -> Seen:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([tool, path]).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Seen(tuple((number, digest) for number, digest in answer["frames"]), answer["end"])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def outcome(
    tool: str, made: Made, folder: Path, canary: Canary, reader: Reader, known: dict[tuple[str, str], Seen]
) -> str:
    """One of OUTCOMES; `known` remembers what the tool gives of undamaged files.

    right: every frame that the file has, as the tool itself decodes it from the undamaged file; of a file without video
    no frame. wrong: other frames, or fewer, without a word.
    """
    canary.touched()
    seen = reader.read(tool, str(folder / "raw" / made.name))
    if canary.touched() or any(number in FOREIGN for number, _ in seen.frames):
        return "foreign"
    if seen.end:
        return seen.end
    if made.kind == "12000x12000":
        return "right" if seen.frames else "wrong"
    if made.expect == "failed":
        return "wrong" if seen.frames else "right"
    if made.reference:
        if (tool, made.reference) not in known:
            known[tool, made.reference] = reader.read(tool, str(folder / "masters" / made.reference))
        truth = known[tool, made.reference].frames
        if made.whole and len(made.numbers) < len(truth):  # some are hidden by the file itself
            truth = truth[-len(made.numbers) :]
        if not made.rotation or len(seen.frames) != len(truth):
            return "right" if seen.frames == truth else "wrong"
    numbers = [number for number, _ in seen.frames]
    if len(numbers) != min(len(made.numbers), MOST) and made.numbers:
        return "wrong"
    told = all(number is None or number == wanted for number, wanted in zip(numbers, made.numbers, strict=False))
    return "right" if told else "wrong"


def serve() -> None:
    """Forks a child for every line on standard input; the libraries are loaded once."""
    import av  # noqa: F401
    import cv2
    import decord  # noqa: F401

    cv2.setNumThreads(1)
    for line in sys.stdin.buffer:
        tool, path = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(tool, path, writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            lines = pipe.read().splitlines()
        _, status = os.waitpid(child, 0)
        frames = [json.loads(line) for line in lines if line.startswith(b"[") and line.endswith(b"]")]
        end = lines[-1].decode() if lines and not lines[-1].startswith(b"[") else ""
        if os.WIFSIGNALED(status):
            end = "hang" if os.WTERMSIG(status) in (signal.SIGALRM, signal.SIGXCPU) else "crash"
        elif os.WEXITSTATUS(status):
            end = "crash"
        print(json.dumps({"frames": frames, "end": end}), flush=True)


def _child(tool: str, path: str, writing: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS)
    try:
        for count, picture in enumerate(READERS[tool](path)):
            if count == MOST:
                break
            digest = hashlib.md5(np.ascontiguousarray(picture).data, usedforsecurity=False).hexdigest()[:16]
            os.write(writing, json.dumps([number_of(_upright(picture)), digest]).encode() + b"\n")
    except BaseException:
        with contextlib.suppress(OSError):
            os.write(writing, b"error\n")
    os._exit(0)


def _upright(picture: np.ndarray) -> np.ndarray:
    """The picture as it was coded, if the tool has turned it."""
    for turn in range(4):
        turned = np.rot90(picture, turn)
        if number_of(turned) is not None:
            return turned
    return picture


def _opencv(path: str) -> Iterator[np.ndarray]:
    import cv2

    capture: Any = cv2.VideoCapture(path)
    if not capture.isOpened():
        raise ValueError(path)
    while True:
        there, picture = capture.read()
        if not there:
            return
        yield picture


def _pyav(path: str) -> Iterator[np.ndarray]:
    import av

    with av.open(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def _decord(path: str) -> Iterator[np.ndarray]:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    for index in range(len(reader)):
        yield reader[index].asnumpy()


READERS = {"OpenCV": _opencv, "PyAV": _pyav, "decord": _decord}
