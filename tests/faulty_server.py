"""A server with OpenAI's chat completions that fails as a script says, on real sockets: one asyncio TCP server.

What it answers repeats the request (`answer to: PROMPT`), so that an answer given to the wrong request shows; or it is
a proxy, whose answers are those of a server behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

# What becomes of one try. "ok" answers; the rest are faults, some with a number or a text after a colon: status:CODE,
# retry:SECONDS (429), date:SECONDS (503, Retry-After as a date), slow:SECONDS (whole reply late), drip (a byte each
# 0.05 s), hang (no reply, connection open), reset (before headers), reset-headers, reset-body, cut (fewer bytes than
# announced), truncated (JSON cut, length right), html, empty, gzip, huge, redirect:URL, json:TEXT (that body), echo
# (400 that repeats the headers it was sent).
Script = Callable[[str, int], str]  # prompt (a proxy: a digest of what is asked), number of its tries before → fault

ANSWERING = ("ok", "slow", "reset-headers", "reset-body", "cut", "truncated")  # faults of a reply that exists


@dataclass
class Seen:
    """What the server saw."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    tries: Counter[str] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)  # of the bodies, in seconds
    now: int = 0
    most: int = 0  # requests under way at one time


@contextmanager
def faulty_server(script: Script, port: int = 0, pause: float = 0.0, upstream: str = "") -> Iterator[tuple[str, Seen]]:
    """Base URL and what it saw.

    pause: seconds that every reply takes, so that requests overlap. upstream: base URL of the server behind a proxy.
    """
    seen = Seen()
    loop = asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()
    address: list[int] = []

    async def serve() -> None:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _serve(reader, writer, script, seen, pause, upstream)

        server = await asyncio.start_server(connected, "127.0.0.1", port)
        address.append(server.sockets[0].getsockname()[1])
        ready.set()
        await stop.wait()
        server.close()
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks() if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError("the faulty server did not start")
    try:
        yield f"http://127.0.0.1:{address[0]}/v1", seen
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@contextmanager
def deaf_server() -> Iterator[str]:
    """A port that takes connections into its queue and never accepts one: whoever writes waits for ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def prompt_of(body: dict[str, Any]) -> str:
    content = body["messages"][0]["content"]
    return content if isinstance(content, str) else next(part["text"] for part in content if part["type"] == "text")


def digest(body: dict[str, Any]) -> str:
    """Of what is asked: text and pictures."""
    return hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script, seen: Seen, pause: float, upstream: str
) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:]) if name}
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            prompt = digest(body) if upstream else prompt_of(body)
            await asyncio.sleep(0.001)  # connections that closed before this request came are seen first
            seen.bodies.append(body)
            seen.headers.append(headers)
            seen.times.append(asyncio.get_running_loop().time())
            fault = script(prompt, seen.tries[prompt])
            seen.tries[prompt] += 1
            seen.now += 1
            seen.most = max(seen.most, seen.now)
            try:
                await asyncio.sleep(pause)
                if upstream and fault.partition(":")[0] in ANSWERING:
                    status, good = await asyncio.to_thread(_forwarded, upstream, body)
                else:
                    status, good = 200, json.dumps(completion(f"answer to: {prompt}")).encode()
                if not await _reply(reader, writer, status, good, headers, *fault.partition(":")[::2]):
                    break
            finally:
                seen.now -= 1
    writer.close()


def _forwarded(upstream: str, body: dict[str, Any]) -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"{upstream}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


async def _reply(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    status: int,
    good: bytes,
    headers: dict[str, str],
    fault: str,
    value: str,
) -> bool:
    """Whether the connection goes on."""
    if fault in ("ok", "slow"):
        await asyncio.sleep(float(value or 0))
        return await _send(writer, status, good)
    if fault == "status":
        return await _send(writer, int(value), json.dumps({"error": {"message": f"made {value}"}}).encode())
    if fault == "retry":
        return await _send(writer, 429, b'{"error": {"message": "slower"}}', {"Retry-After": value})
    if fault == "date":  # read against a Date that is an hour behind
        date = {"Date": formatdate(1_790_000_000, usegmt=True)}
        date["Retry-After"] = formatdate(1_790_000_000 + float(value), usegmt=True)
        return await _send(writer, 503, b'{"detail": "later"}', date)
    if fault == "html":
        return await _send(writer, 200, b"<html>Down for maintenance</html>", {"Content-Type": "text/html"})
    if fault == "json":
        return await _send(writer, 200, value.encode())
    if fault == "truncated":
        return await _send(writer, 200, good[: len(good) // 2])
    if fault == "empty":
        return await _send(writer, 200, b"")
    if fault == "gzip":
        return await _send(writer, 200, good, {"Content-Encoding": "gzip"})
    if fault == "huge":
        return await _send(writer, 200, b'{"a": "' + b"x" * (16 << 20) + b'"}')
    if fault == "redirect":
        return await _send(writer, 307, b"", {"Location": value})
    if fault == "echo":
        return await _send(writer, 400, json.dumps({"error": {"message": f"bad key {headers}"}}).encode(), headers)
    if fault == "drip":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)
    if fault == "hang":
        await reader.read(1)  # until the client hangs up
    if fault in ("reset-headers", "reset-body", "cut"):
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(good)}\r\n".encode())
        writer.write(b"" if fault == "reset-headers" else b"\r\n" + good[:20])
        await writer.drain()
    if fault != "cut":  # closing without lingering sends RST in place of FIN
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    return False


async def _send(writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str] | None = None) -> bool:
    extra = {"content-type": "application/json"} | {name.lower(): value for name, value in (headers or {}).items()}
    extra["content-length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
    writer.write(f"HTTP/1.1 {status} Made\r\n{lines}\r\n".encode() + body)
    await writer.drain()
    return True


def completion(text: Any, finish: str | None = "stop", usage: Any = ...) -> dict[str, Any]:
    """A chat completion."""
    reply: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }
    return reply | {"usage": {"prompt_tokens": 7, "completion_tokens": 3} if usage is ... else usage}
