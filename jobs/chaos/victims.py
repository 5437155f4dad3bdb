"""The processes of a run on this machine: whoever descends from its job, looked at and killed.

What always holds: nothing else on the machine is touched. A process counts from when it was first
seen below the job until it ends, whoever its parent is by then (an orphan gets another one), and is
known by its id and the time it started at, since ids are used again.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from actors.supervision.process_guard import Process, descendants, processes

LOOK_S = 0.2
# By what a process shows as its command line.
TITLES = {
    "generator": "ray::GeneratorActor",
    "scorer": "ray::ScorerActor",
    "rank": "ray::RayTrainWorker",
    "grader": "actors.grading.worker",
    "raylet": "/raylet ",
}


@dataclass(frozen=True)
class Look:
    """What a process shows: its command line, and the processor time it has used: in ticks (of a
    hundredth of a second), and that of its main thread in nanoseconds."""

    line: str
    ticks: int
    main_ns: int

    def has_worked_since(self, before: Look, victim: str) -> bool:
        """A grader grades a whole shard within a tick, and does nothing in between; the main thread
        of an engine or a rank answers questions also when there is no work."""
        return self.ticks > before.ticks or (victim == "grader" and self.main_ns > before.main_ns)


def look(process: Process) -> Look | None:
    """None when it has ended."""
    folder = Path(f"/proc/{process[0]}")
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        main_ns = int((folder / "schedstat").read_text().split()[0])
        line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return None
    if fields[0] in "ZX" or int(fields[19]) != process[1]:
        return None
    return Look(f"{line} ", int(fields[11]) + int(fields[12]), main_ns)


class Family:
    """Everything that one job has started, followed from its birth."""

    def __init__(self, job: int) -> None:
        self.job = job
        self._known: set[Process] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="family", daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._gather()

    def _gather(self) -> None:
        parents = processes()
        roots = {self.job} | {pid for pid, _ in self._known & parents.keys()}
        found = descendants(roots, parents) | {one for one in parents if one[0] == self.job}
        self._known = self._known | found  # a new set: another thread may be walking the old one

    def alive(self) -> dict[Process, Look]:
        """Who lives now."""
        self._gather()
        looks = {one: look(one) for one in self._known}
        return {one: seen for one, seen in looks.items() if seen is not None}

    def victims(self, victim: str) -> dict[Process, Look]:
        """The living processes of a role."""
        found = {one: seen for one, seen in self.alive().items() if TITLES[victim] in seen.line}
        # Whom one of them has just forked still looks like it, and is about to be something else.
        parents, pids = processes(), {pid for pid, _ in found}
        return {one: seen for one, seen in found.items() if parents.get(one) not in pids}

    def at_work(self, victim: str, patience_s: float = 10.0) -> int | None:
        """One of a role that is using the processor right now; None when none was in time."""
        end = time.monotonic() + patience_s
        before = self.victims(victim)
        while time.monotonic() < end:
            time.sleep(0.03)
            for one, seen in self.victims(victim).items():
                if one in before and seen.has_worked_since(before[one], victim):
                    return one[0]
                before.setdefault(one, seen)
        return None

    def any(self, victim: str) -> int | None:
        """One of a role that lives."""
        return next((pid for pid, _ in self.victims(victim)), None)

    def left(self, patience_s: float = 60.0) -> list[str]:
        """Who still lives when the job is gone and the rest had `patience_s` to go; then killed."""
        self._ended.set()
        self._thread.join()
        end = time.monotonic() + patience_s
        while (alive := self.alive()) and time.monotonic() < end:
            time.sleep(0.3)
        for pid, _ in alive:
            kill(pid)
        return sorted(seen.line.strip() for seen in alive.values())


def kill(pid: int) -> bool:
    """SIGKILL; False when it was gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
