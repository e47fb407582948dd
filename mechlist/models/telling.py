"""What loading a model is doing, on stderr: silence of half a minute looks like a program that hangs."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_SECONDS = 2.0
"""Nothing is said of what takes less."""


@contextmanager
def telling(what: str, shown: bool = True) -> Iterator[None]:
    """Say what is being done once it has taken a while, and in the end how long it took: `Loading gpt2 ... 12 s`."""
    started = time.monotonic()
    timer = threading.Timer(QUIET_SECONDS, lambda: print(f"{what} ...", end="", file=sys.stderr, flush=True))
    timer.daemon = True
    if shown:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.finished.is_set() and shown and time.monotonic() - started > QUIET_SECONDS:
            print(f" {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
