"""A guarded place for untrusted video: each job runs in a forked child that may crash, hang or eat memory alone.

A warm helper process holds the libraries and forks one child a job (about 5 ms). Everything dies with the process that
opened the sandbox.

What is guarded, on Linux: address space, CPU time, size of a written file, time without progress and time in all; no
core dumps; no new privileges; no inherited descriptors; an environment that holds only what Python needs. Where the
system permits it the helper has a network namespace of its own, without any network (in many containers it does not).

What is not: a job runs as the same user. Code that takes over the decoder can read and write what that user can, and
send signals. Run `rushes` as a user, or in a container, that owns no more than it needs. Elsewhere than on Linux only
the times, the CPU and the file size are limited.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

# What may run inside, by name; the parent can ask for nothing else.
JOBS = {
    "probe": "curation.jobs:probe",
    "decode": "curation.jobs:decode",
    "cut": "curation.jobs:cut",
    "preview": "curation.jobs:preview",
    "frames": "curation.jobs:frames",
}
WARM = "curation.jobs:warm"  # runs once before the first fork; it may leave no thread behind
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
START_S = 120.0  # for the helper to load its libraries
FILE_LIMIT = 256 * 2**30  # bytes; a day of video needs about a tenth of it in its largest file
MESSAGE_LIMIT = 256 * 2**20  # bytes; the clips of a day of video need about a tenth of it
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
NO_MEMORY = ("Insufficient memory", "Cannot allocate memory", "failed to map segment")  # OpenCV, libav, the linker
FULL = (errno.ENOSPC, errno.EDQUOT)

Beat = Callable[[dict[str, Any]], None]


class JobFailed(Exception):
    """A job that did not return; the message is the reason, for people and for the videos table."""

    def __init__(self, reason: str, retryable: bool = False):
        """`retryable`: the machine may be to blame (a hang, memory, a kill), so that trying again makes sense."""
        super().__init__(reason)
        self.retryable = retryable


class SandboxBroken(RuntimeError):
    """The helper process does not start: no job can run, whatever the video."""


class _HelperGone(Exception):
    pass


class Sandbox:
    """Runs one job at a time in a guarded child process."""

    def __init__(self, memory_gb: float = 4.0, stall_s: float = 60.0, work_h: float = 48.0):
        """`memory_gb`: address space of a job. `stall_s`: a job that reports nothing for so long is ended. `work_h`: so
        is one that takes longer in all, by the clock or in CPU time."""
        self._memory, self._stall, self._work_s = int(memory_gb * 2**30), stall_s, work_h * 3600
        self._helper: subprocess.Popen[bytes] | None = None
        self._messages = -1
        self._buffer = bytearray()
        self._number = 0  # of the job; each message names its job

    def run(self, job: str, beat: Beat | None = None, **arguments: Any) -> Any:
        """Result of the job (JSON values). `beat` gets its progress messages; {"patience_s": n} asks for more time.

        Raises JobFailed with the reason, OSError where the disk is full, SandboxBroken, and what `beat` raises.
        """
        self._number += 1
        limits = {"memory": self._memory, "cpu_s": int(self._work_s) + 1}
        request = {"job": job, "number": self._number, "arguments": arguments, **limits}
        try:
            status, outcome = self._attempt(request, beat)
        except _HelperGone:  # it died before it began with the job
            try:
                status, outcome = self._attempt(request, beat)
            except _HelperGone as error:
                raise SandboxBroken("the decoder's helper process does not start; see `rushes doctor`") from error
        return self._conclude(status, outcome)

    def _attempt(self, request: dict[str, Any], beat: Beat | None) -> tuple[int, dict[str, Any]]:
        """Exit status of the child and its last word. Whatever is raised, the job and the helper are gone then."""
        child = 0
        done = False
        try:
            self._send(request)
            now = time.monotonic()
            ends, deadline, outcome = now + START_S + self._work_s, now + START_S, {}
            while True:
                message = self._receive(min(deadline, ends), bool(child))
                now = time.monotonic()
                if now > ends:
                    raise JobFailed(f"too slow: not done after {self._work_s / 3600:g} hours (decode.max_work_h)")
                if message is None:
                    if not child:
                        raise _HelperGone
                    raise JobFailed(f"decoder hung: no progress for {self._stall:g} s", retryable=True)
                if message.get("number") != request["number"]:
                    continue
                deadline = now + self._stall
                if "pid" in message:
                    child, ends = message["pid"], now + self._work_s
                elif "exit" in message:
                    done = True
                    return message["exit"], outcome
                elif "progress" in message:
                    deadline += float(message["progress"].get("patience_s", 0))
                    if beat:
                        beat(message["progress"])
                else:
                    outcome = message
        finally:
            if not done:
                if child:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                self.close()

    def close(self) -> None:
        """End the helper; a new one starts with the next job."""
        if self._helper is not None:
            self._helper.kill()
            self._helper.wait()
            assert self._helper.stdin is not None
            try:
                self._helper.stdin.close()
            except BrokenPipeError:
                self._helper.stdin = None
            os.close(self._messages)
            self._helper = None
            self._buffer.clear()

    def kill(self) -> None:
        """End what runs, from any thread: a `run` under way raises JobFailed, one that was about to begin may go on."""
        helper = self._helper
        if helper is not None:
            helper.kill()

    def _conclude(self, status: int, outcome: dict[str, Any]) -> Any:
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGXCPU:
                raise JobFailed(f"too slow: over {self._work_s / 3600:g} hours of work (decode.max_work_h)")
            # Nothing in a video sends SIGKILL; a system that is short of memory does.
            name = signal.Signals(number).name
            raise JobFailed(f"decoder crashed ({name})", retryable=number == signal.SIGKILL)
        if outcome.get("errno") in FULL:
            raise OSError(outcome["errno"], f"no space left for files in work: {outcome['error']}")
        if "error" in outcome:
            raise JobFailed(outcome["error"], retryable=bool(outcome.get("retryable")))
        if "result" not in outcome:
            raise JobFailed(f"decoder ended early (exit status {os.WEXITSTATUS(status)})")
        return outcome["result"]

    def _send(self, request: dict[str, Any]) -> None:
        helper = self._start()
        assert helper.stdin is not None
        try:
            helper.stdin.write(json.dumps(request).encode() + b"\n")
            helper.stdin.flush()
        except BrokenPipeError as error:
            raise _HelperGone from error

    def _start(self) -> subprocess.Popen[bytes]:
        if self._helper is not None and self._helper.poll() is None:
            return self._helper
        self.close()
        self._messages, writing = os.pipe()
        environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        # The helper must find the same modules as its parent, wherever Ray unpacked them.
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self._helper = subprocess.Popen(
                [sys.executable, "-c", f"from curation import sandbox; sandbox._serve({writing})"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writing,),
                env=environment,
                start_new_session=True,  # the terminal's Ctrl-C is the driver's business
            )
        finally:
            os.close(writing)
        return self._helper

    def _receive(self, deadline: float, begun: bool) -> dict[str, Any] | None:
        """The next message; None where none came in time. Raises JobFailed or _HelperGone where the helper is gone."""
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                try:
                    message = json.loads(line)
                except ValueError:  # a child was killed while it wrote
                    continue
                if isinstance(message, dict):
                    return message
                continue
            if len(self._buffer) > MESSAGE_LIMIT:
                raise JobFailed("decoder crashed (it wrote without end)")
            ready, _, _ = select.select([self._messages], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(self._messages, 2**20)
            if not data:
                if begun:
                    raise JobFailed("decoder crashed (with its helper process)", retryable=True)
                raise _HelperGone
            self._buffer += data


def _serve(messages: int) -> None:
    """The helper: preload, then fork a child for every line on standard input."""
    _confine()
    functions = {name: _load(target) for name, target in JOBS.items()}
    _load(WARM)()
    gc.freeze()  # children leave what is loaded alone: memory that nobody writes to is shared

    def say(**message: Any) -> None:
        os.write(messages, b"\n" + json.dumps(message).encode() + b"\n")  # the child may have left half a line

    helper = os.getpid()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(messages, helper, functions[request["job"]], request)
        say(number=request["number"], pid=child)
        _, status = os.waitpid(child, 0)
        say(number=request["number"], exit=status)


def _confine() -> None:
    """Give up what no job needs, before any library is loaded. What the system does not permit stays as it is."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most == resource.RLIM_INFINITY or most > FILE_LIMIT:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Inside a user namespace root could no longer read other users' files, which it may have to.
    libc.unshare(CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET)


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _child(messages: int, helper: int, function: Callable[..., Any], request: dict[str, Any]) -> None:
    def say(**message: Any) -> None:
        data = json.dumps({"number": request["number"], **message}).encode() + b"\n"
        while data:
            data = data[os.write(messages, data) :]

    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != helper:  # it died before the line above
                os._exit(code)
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
        resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_s"], request["cpu_s"] + 60))
        say(result=function(lambda message: say(progress=message), **request["arguments"]))
        code = 0
    except BaseException as error:
        if isinstance(error, MemoryError) or any(sign in str(error) for sign in NO_MEMORY):
            say(error=f"out of memory (limit {request['memory'] / 2**30:g} GB)", retryable=True)
        else:
            where = traceback.extract_tb(error.__traceback__)[-1]
            named = getattr(error, "reason", None) or f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"
            retryable = bool(getattr(error, "retryable", False))
            say(error=named, errno=getattr(error, "errno", None), retryable=retryable)
    finally:
        os._exit(code)
