"""A guarded place for untrusted video: each job runs in a forked child with memory and time limits.

A warm helper process holds the libraries and forks one child a job (about 5 ms), so that a decoder that crashes, hangs
or eats memory takes nobody with it. The helper knows no secrets: its environment holds only what Python needs.
Everything dies with the process that opened the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
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
JOBS = {"probe": "curation.jobs:probe", "decode": "curation.jobs:decode", "cut": "curation.jobs:cut"}
WARM = "curation.jobs:warm"  # runs once before the first fork; it may leave no thread behind
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "HOME")
PR_SET_PDEATHSIG = 1

Beat = Callable[[dict[str, Any]], None]


class JobFailed(Exception):
    """A job that did not return; the message is the reason, for people and for the videos table."""


class Sandbox:
    """Runs one job at a time in a guarded child process."""

    def __init__(self, memory_gb: float = 4.0, stall_s: float = 60.0):
        """`memory_gb`: address space of a job. `stall_s`: a job that reports nothing for so long is ended."""
        self._memory = int(memory_gb * 2**30)
        self._stall = stall_s
        self._helper: subprocess.Popen[bytes] | None = None
        self._messages = -1
        self._buffer = b""

    def run(self, job: str, beat: Beat | None = None, **arguments: Any) -> Any:
        """Result of the job (JSON values). `beat` gets its progress messages. Raises JobFailed with the reason."""
        helper = self._start()
        assert helper.stdin is not None
        request = {"job": job, "arguments": arguments, "memory": self._memory}
        try:
            helper.stdin.write(json.dumps(request).encode() + b"\n")
            helper.stdin.flush()
        except BrokenPipeError as error:
            self.close()
            raise JobFailed("decoder crashed") from error
        child = 0
        deadline = time.monotonic() + self._stall
        outcome: dict[str, Any] = {}
        while True:
            message = self._receive(deadline)
            if message is None:
                self._kill(child)
                raise JobFailed(f"decoder hung: no progress for {self._stall:g} s")
            deadline = time.monotonic() + self._stall
            if "pid" in message:
                child = message["pid"]
            elif "exit" in message:
                return self._conclude(message["exit"], outcome)
            elif "result" in message or "error" in message:
                outcome = message
            elif beat:
                beat(message)

    def _kill(self, child: int) -> None:
        """End the job and the helper; a new helper starts with the next job."""
        if child:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.close()

    def close(self) -> None:
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
            self._buffer = b""

    def _conclude(self, status: int, outcome: dict[str, Any]) -> Any:
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            raise JobFailed(f"decoder crashed ({signal.Signals(number).name})")
        if "error" in outcome:
            raise JobFailed(outcome["error"])
        if "result" not in outcome:
            raise JobFailed(f"decoder ended early (exit status {os.WEXITSTATUS(status)})")
        return outcome["result"]

    def _start(self) -> subprocess.Popen[bytes]:
        if self._helper is not None and self._helper.poll() is None:
            return self._helper
        if self._helper is not None:
            self.close()
        self._messages, writing = os.pipe()
        environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        # The helper must find the same modules as its parent, wherever Ray unpacked them.
        environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
        self._helper = subprocess.Popen(
            [sys.executable, "-c", f"from curation import sandbox; sandbox._serve({writing})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writing,),
            env=environment,
            start_new_session=True,  # the terminal's Ctrl-C is the driver's business
        )
        os.close(writing)
        return self._helper

    def _receive(self, deadline: float) -> dict[str, Any] | None:
        """The next message; None where none came in time. Raises JobFailed where the helper is gone."""
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._messages], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            data = os.read(self._messages, 65536)
            if not data:
                self.close()
                raise JobFailed("decoder crashed (with its helper process)")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(messages: int) -> None:
    """The helper: preload, then fork a child for every line on standard input."""
    if sys.platform == "linux":
        _die_with_parent()
    functions = {name: _load(target) for name, target in JOBS.items()}
    _load(WARM)()
    gc.freeze()  # children leave what is loaded alone: memory that nobody writes to is shared
    for line in sys.stdin.buffer:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(messages, functions[request["job"]], request)
        os.write(messages, json.dumps({"pid": child}).encode() + b"\n")
        _, status = os.waitpid(child, 0)
        os.write(messages, json.dumps({"exit": status}).encode() + b"\n")


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _child(messages: int, function: Callable[..., Any], request: dict[str, Any]) -> None:
    def send(message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(messages, data) :]

    code = 1
    try:
        if sys.platform == "linux":
            _die_with_parent()
            resource.setrlimit(resource.RLIMIT_AS, (request["memory"], request["memory"]))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        send({"result": function(send, **request["arguments"])})
        code = 0
    except MemoryError:
        send({"error": f"out of memory (limit {request['memory'] / 2**30:g} GB)"})
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        named = getattr(error, "reason", None) or f"{type(error).__name__}: {error} ({where.name}:{where.lineno})"
        send({"error": named})
    finally:
        os._exit(code)
