"""Stopping the main thread from another one."""

from __future__ import annotations

import signal
import threading


def interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread, wherever it waits.

    A real signal, because only that ends a wait inside a library. Where SIGINT is ignored, as shells do to what they
    start in the background, it is SIGTERM, which the command line and a Ray session turn into KeyboardInterrupt.
    """
    number = signal.SIGINT if callable(signal.getsignal(signal.SIGINT)) else signal.SIGTERM
    signal.pthread_kill(threading.main_thread().ident or 0, number)
