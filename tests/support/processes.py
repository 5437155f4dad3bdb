"""Processes of a test, by what they show as their command line."""

from __future__ import annotations

import psutil


def processes(*names: str, of: int | None = None) -> list[psutil.Process]:
    """Those below the process `of` (by default this one) that show one of the names."""
    found = {}
    for process in psutil.Process(of).children(recursive=True):
        try:
            if any(name in part for part in process.cmdline() for name in names):
                found[process.pid] = process, process.ppid()
        except psutil.NoSuchProcess:  # it ended meanwhile; a zombie is one of these
            continue
    # Whom one of them has just forked still looks like it, and is about to be something else.
    return [process for process, parent in found.values() if parent not in found]
