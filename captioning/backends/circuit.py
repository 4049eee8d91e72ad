"""Keeps many requests from hammering a server that is down, or that has asked to be left alone for a while."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

OPEN_AFTER = 5  # failures in a row, of any requests
LOOK_S = 0.05  # how often those that wait for another's try look whether it is over


class Down(Exception):
    """The server was not asked: it has been down too long, or wants longer pauses than there is time for."""


class Circuit:
    """Of one server. After failures in a row only one request at a time is let through, at growing intervals, and the
    others wait; one that works opens the way for all. An outage longer than `patience_s` fails them without a try.
    """

    def __init__(self, first_s: float, longest_s: float, patience_s: float) -> None:
        self._first, self._longest, self._patience = first_s, longest_s, patience_s
        self._row = 0  # failures since the last success
        self._since: float | None = None  # the outage's start; None: there is none
        self._next = 0.0  # when one request may try
        self._trying = False
        self._tries = 0  # of this outage, in vain
        self._pause = 0.0  # nobody asks before then
        self._last = ""

    def renew(self) -> None:
        """A new batch makes one try at once, whatever the last one met."""
        self._next = self._pause = 0.0

    def pause(self, seconds: float) -> None:
        """The server wants nobody to ask for so long."""
        self._pause = max(self._pause, time.monotonic() + seconds)

    def worked(self) -> None:
        self._row, self._since, self._tries = 0, None, 0

    def failed(self, reason: str, trying: bool) -> None:
        """trying: what `attempt` gave; a failure of a request sent before the outage was seen lengthens no waits."""
        now = time.monotonic()
        self._row += 1
        self._last = reason
        if self._row < OPEN_AFTER:
            return
        self._since = now if self._since is None else self._since
        self._tries += trying
        wait = min(self._longest, self._first * 2 ** min(self._tries, 16))
        self._next = max(self._next, now + wait * random.uniform(0.5, 1.0))

    @asynccontextmanager
    async def attempt(self, deadline: float) -> AsyncIterator[bool]:
        """Waits until the server may be asked. Raises Down where that is not before `deadline` (monotonic seconds).

        Gives whether this is the one try that an outage allows.
        """
        trying = await self._admit(deadline)
        try:
            yield trying
        finally:
            if trying:
                self._trying = False

    async def _admit(self, deadline: float) -> bool:
        while True:
            now = time.monotonic()
            if self._pause > deadline:
                raise Down(f"it asks to wait {self._pause - now:.0f} s, longer than max_wait_s leaves ({self._last})")
            if self._pause > now:
                await asyncio.sleep(self._pause - now + random.uniform(0, self._first))
                continue
            if self._since is None:
                return False
            if not self._trying and now >= self._next:
                self._trying = True
                return True
            if (not self._trying and now - self._since >= self._patience) or now >= deadline:
                raise Down(f"it has been failing for {now - self._since:.0f} s, not asked again; last: {self._last}")
            await asyncio.sleep(LOOK_S if self._trying else min(LOOK_S * 10, max(self._next - now, 0.001)))
