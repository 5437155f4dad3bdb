"""What a job and everything it started hold in memory, on this machine.

Memory is PSS: a page that several processes share is counted in parts, so the sum over processes is
what the machine has less. Linux only; MiB are 2**20 bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil


def title_of(words: Sequence[str]) -> str:
    """What a process is, in a few words, from its command line: "ray::GeneratorActor", "raylet",
    "jobs.run"."""
    if not words:
        return "?"
    if words[0].startswith("ray::"):
        return words[0].split(".")[0].split("(")[0].strip()
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    scripts = [Path(word).name for word in words if word.endswith(".py")]
    return scripts[0] if scripts else Path(words[0]).name or "?"


def job_memory(leave_out: str = "") -> dict[str, float]:
    """MiB of this process and of everything it started, by title, but for one title."""
    me = psutil.Process()
    held: dict[str, float] = {}
    for process in (me, *me.children(recursive=True)):
        try:
            title, pss = title_of(process.cmdline()), process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended meanwhile, or is not ours to look at
        if title != leave_out:
            held[title] = held.get(title, 0.0) + pss / 2**20
    return held


class PeakMemory:
    """Looks every `every_s` seconds, on a thread of its own, while it is open; `leave_out` is the
    title of what is not counted.

    total: the most that all held together, MiB. by_title: the most of each, at whatever moment.
    """

    def __init__(self, every_s: float = 1.0, *, leave_out: str = "") -> None:
        self.total = 0.0
        self.by_title: dict[str, float] = {}
        self._every_s = every_s
        self._leave_out = leave_out
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def look(self) -> None:
        """Take one look."""
        found = job_memory(self._leave_out)
        self.total = max(self.total, sum(found.values()))
        for title, mib in found.items():
            self.by_title[title] = max(mib, self.by_title.get(title, 0.0))

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    def __enter__(self) -> PeakMemory:
        self.look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
