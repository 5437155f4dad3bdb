"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 30.0


def until(true: Callable[[], object]) -> None:
    """Until this is so; fails after `PATIENCE_S`."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
