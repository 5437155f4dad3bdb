"""Nothing that a job starts on this machine outlives it, however the job dies.

`guard()` marks this process's environment, which everything it starts inherits (Ray's own
processes, engines, learner ranks, graders and what they start), and starts a small watcher that
also remembers the job's descendants, since some programs write their title over their environment.
When the job is gone, the watcher ends whatever is left of either kind, and is done. Ray ends its
workers by itself; its agents stay for a minute, trying to tell a cluster that no longer exists.

Only descendants of this very process on this machine are touched: not a Ray that was there before,
not the same job started again, not another job.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

MARK = "MSTAR_JOB"
# Seconds between two looks at the job, and that its processes may take to end by themselves.
LOOK_S, GRACE_S = 1.0, 1.0

# How often they are then looked for, and seconds in between. Not for how long: this process may
# itself be paused.
SWEEPS, SWEEP_S = 15, 0.2

# A process by its id and the time it started at: ids are used again.
Process = tuple[int, int]


def end_with(pid: int) -> None:
    """Send this process SIGTERM once process `pid` is gone, or at once when it is."""
    begun = _began(pid)

    def watch() -> None:
        while begun is not None and _began(pid) == begun:
            time.sleep(LOOK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with", daemon=True).start()


def _began(pid: int) -> str | None:
    """When a process was started, in clock ticks since boot; None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


@cache
def guard() -> subprocess.Popen[bytes]:
    """Watch over what this process starts from now on. Call it before anything is started; calling
    it again does nothing more."""
    mark = os.environ[MARK] = secrets.token_hex(8)
    return subprocess.Popen(
        [sys.executable, "-S", __file__, mark, str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env={key: value for key, value in os.environ.items() if key != MARK},
    )


def processes() -> dict[Process, int]:
    """Every process of this machine, and the id of its parent."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything.
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        found[(int(file.parent.name), int(fields[19]))] = int(fields[1])
    return found


def descendants(roots: set[int], parents: dict[Process, int]) -> set[Process]:
    """What the processes `roots` started, and what that started."""
    found: set[Process] = set()
    known = set(roots)
    while True:
        more = {one for one, parent in parents.items() if parent in known and one not in found}
        if not more:
            return found
        found |= more
        known |= {pid for pid, _ in more}


def marked(parents: dict[Process, int], mark: str) -> set[Process]:
    """Those that still have the mark in the environment they were started with."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid, started in parents:
        try:
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add((pid, started))
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found


def sweep(mark: str, family: set[Process]) -> None:
    """End the family and whatever is marked, and look again: a process may just be starting."""
    for _ in range(SWEEPS):
        parents = processes()
        family &= parents.keys()
        family |= descendants({pid for pid, _ in family}, parents) | marked(parents, mark)
        for pid, _ in family:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(SWEEP_S)


def _watch(mark: str, job: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    family: set[Process] = set()
    # An orphan gets another parent. A pipe would be held open by whatever the job forked.
    while os.getppid() == job:
        parents = processes()
        family &= parents.keys()
        family |= descendants({job} | {pid for pid, _ in family}, parents)
        family -= {one for one in family if one[0] == os.getpid()}
        time.sleep(LOOK_S)
    time.sleep(GRACE_S)
    sweep(mark, family)


if __name__ == "__main__":
    _watch(sys.argv[1], int(sys.argv[2]))
