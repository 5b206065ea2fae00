"""Waiting, within a bound, for something of other processes that comes with no event."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOKS_EVERY_S = 0.01


def wait_until(condition: Callable[[], bool], *, within_s: float = 20) -> None:
    """Return once the condition holds; an assertion fails if that takes longer than the bound."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not within {within_s} s"
        time.sleep(LOOKS_EVERY_S)
