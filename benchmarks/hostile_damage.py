"""Damage: what disks, downloads and attackers do to a file's bytes. Every function is pure and drawn from a seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]
Damage = Callable[[bytes, random.Random], tuple[bytes, Span]]
HEAD = 64  # bytes in which containers say what they are


@dataclass(frozen=True)
class Damaged:
    """A broken copy: its bytes, what was touched, and how."""

    kind: str
    data: bytes
    touched: Span
    note: str


def cut_off(share: float) -> Damage:
    """Only the first `share` of the bytes are there."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        end = max(1, int(len(data) * share))
        return data[:end], (end, len(data))

    return damage


def bits(count: int, beginning: int = HEAD) -> Damage:
    """`count` bits are flipped behind the `beginning`."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        broken = bytearray(data)
        places = sorted(draw.randrange(min(beginning, len(data) - 1), len(data)) for _ in range(count))
        for place in places:
            broken[place] ^= 1 << draw.randrange(8)
        return bytes(broken), (places[0], places[-1] + 1)

    return damage


def hole(share: float, fill: bytes | None = b"\0") -> Damage:
    """A stretch is zeros, as of a download that never came; `fill` None: it is random."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        length = max(16, int(len(data) * share))
        start = draw.randrange(min(HEAD, len(data) - 1), max(HEAD + 1, len(data) - length))
        stuff = draw.randbytes(length) if fill is None else fill * length
        return (data[:start] + stuff + data[start + length :])[: len(data)], (start, min(len(data), start + length))

    return damage


def lost(share: float) -> Damage:
    """A stretch is gone, and what follows stands in its place."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        length = max(16, int(len(data) * share))
        start = draw.randrange(min(HEAD, len(data) - 1), max(HEAD + 1, len(data) - length))
        return data[:start] + data[start + length :], (start, start + length)

    return damage


def extra(length: int) -> Damage:
    """Foreign bytes stand in between."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        start = draw.randrange(min(HEAD, len(data) - 1), len(data))
        return data[:start] + draw.randbytes(length) + data[start:], (start, start + length)

    return damage


def no_head(length: int) -> Damage:
    """The beginning is zeros."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        return b"\0" * min(length, len(data)) + data[length:], (0, length)

    return damage


def no_tail(share: float) -> Damage:
    """The end is zeros: a file that was allocated, and not written to its end."""

    def damage(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
        start = int(len(data) * (1 - share))
        return data[:start] + b"\0" * (len(data) - start), (start, len(data))

    return damage


def swapped(data: bytes, draw: random.Random) -> tuple[bytes, Span]:
    """Two stretches of the body have changed places."""
    length = max(16, len(data) // 20)
    first = draw.randrange(min(HEAD, len(data) // 4), len(data) // 2)
    second = draw.randrange(len(data) // 2, max(len(data) // 2 + 1, len(data) - length))
    first = min(first, second - length)
    a, b = data[first : first + length], data[second : second + length]
    broken = data[:first] + b + data[first + length : second] + a + data[second + length :]
    return broken, (first, second + length)


# kind -> damages; of those with a number each master gets as many, drawn anew
DAMAGES: dict[str, list[tuple[str, Damage]]] = {
    "cut off": [
        (f"at {share:.0%}", cut_off(share)) for share in (0.01, 0.05, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.95, 0.99)
    ],
    "bits flipped": [(f"{n} bits", bits(n)) for n in (1, 1, 2, 3, 10, 100)] + [("8 bits, head too", bits(8, 0))],
    "holes": [
        ("5 % zeros", hole(0.05)),
        ("20 % zeros", hole(0.2)),
        ("5 % noise", hole(0.05, None)),
        ("512 bytes", hole(0)),
    ],
    "bytes lost or added": [("3 % gone", lost(0.03)), ("100 bytes added", extra(100)), ("5 kB added", extra(5000))],
    "head zeroed": [(f"{n} bytes", no_head(n)) for n in (4, 16, 64, 512)],
    "tail zeroed": [("10 %", no_tail(0.1)), ("50 %", no_tail(0.5))],
    "parts swapped": [("two stretches", swapped)],
}


def damages(data: bytes, seed: str, each: int) -> Iterator[Damaged]:
    """Of every kind `each` damages, another choice for another `seed`."""
    draw = random.Random(seed)
    for kind, ways in DAMAGES.items():
        for note, damage in draw.sample(ways, min(each, len(ways))):
            broken, touched = damage(data, draw)
            if broken != data:
                yield Damaged(kind, broken, touched, note)


def front_gone(data: bytes, share: float) -> tuple[bytes, Span]:
    """The beginning is gone: a recording that was joined late."""
    place = int(len(data) * share)
    return data[place:], (0, place)


def joined(head: bytes, body: bytes, share: float = 0.5) -> tuple[bytes, Span]:
    """The first part of one file and the last part of another of the same format."""
    place = int(len(head) * share)
    return head[:place] + body[int(len(body) * share) :], (place, len(head))


def boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[str, int, int]]:
    """(type, start of its content, its end) of ISO media boxes, those inside others too."""
    position, end = start, len(data) if end is None else end
    while position + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, position)
        if size < 8 or position + size > end:
            return
        name = kind.decode("latin-1")
        yield name, position + 8, position + size
        if name in ("moov", "trak", "mdia", "minf", "stbl", "edts", "dinf"):
            yield from boxes(data, position + 8, position + size)
        position += size


def patched(data: bytes, box: str, offset: int, value: bytes, which: int = 0) -> bytes:
    """An ISO media file in whose `which`-th `box` the bytes at `offset` of its content are `value`."""
    start = [place for name, place, _ in boxes(data) if name == box][which] + offset
    return data[:start] + value + data[start + len(value) :]
