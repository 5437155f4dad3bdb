"""Starting and ending the main job, as `make run` does, with the real parts on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psutil

from jobs.runtime.cli import MAKE
from pipeline.run.ledger import Ledger
from pipeline.storage.store import Store, open_store

ROOT = Path(__file__).resolve().parents[2]

LIMIT_S = 1500
GONE_S = 600  # for what a job started to go after it; a starved machine is slow
Event = dict[str, Any]
# Ctrl-C in a terminal, SIGKILL of the job itself, SIGKILL of the make that started it.
Way = Literal["interrupted", "killed", "make killed"]
# A process reward model that is built, in one iteration. Labels enough that both sides of the gate
# have some.
PRM = (
    "data.train_queries=96", "warmup.queries=32", "evolve.iterations=1", "evolve.interval=0.25",
    "evolve.control=false", "data.test=[test]", "generate.samples=6",
    "select.reward=prm", "select.rule=top_k", "select.k=2",
    "prm.queries=64", "prm.samples=4", "prm.completions=2", "prm.pairs=2", "prm.held_out=0.3",
    "prm.log_likelihood=true", "prm.frozen=[model.*]", "prm.learning_rate=1.0e-2",
    "prm.use_anyway=true",
)  # fmt: skip

# One iteration of few questions through every stage.
SMALL = (
    "data.train_queries=32", "data.validation_queries=8", "data.test_queries=8", "data.test=[test]",
    "warmup.queries=16", "evolve.iterations=1", "evolve.control=false", "evaluate.samples=0",
    "generate.shard_queries=4",
)  # fmt: skip

# What make is to a job: its parent, which says so.
LIKE_MAKE = f"""
import os, subprocess, sys
os.environ["{MAKE}"] = str(os.getpid())
sys.exit(subprocess.call(sys.argv[1:]))
"""


class MainJob:
    """The tiny recipe in a folder of its own; its store and what it said."""

    def __init__(self, out: Path, overrides: Sequence[str] = ()) -> None:
        self.out = out
        self.log = out / "log"
        self._overrides = [f"run.out={out}", f"cluster.node_cache={out}/cache", *overrides]

    @property
    def store(self) -> Store:
        return open_store(self.out / "tiny" / "store")

    @property
    def events(self) -> list[Event]:
        return list(Ledger(self.store, "tiny").replay())

    @property
    def said(self) -> str:
        return self.log.read_text()

    def start(self, under_make: bool = False) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "jobs.run", "--config", "tiny"]
        for override in self._overrides:
            command += ["--set", override]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", LIKE_MAKE, *command] if under_make else command,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "MSTAR_TEST": str(self.out)},
                start_new_session=True,
            )

    def finish(self) -> None:
        """Run it to its end."""
        assert self.start().wait(LIMIT_S) == 0, self.said[-4000:]
        self.assert_gone()

    def end_at(self, reached: Callable[[list[Event]], bool], way: Way) -> None:
        """Start it, end it once its ledger says that it has come so far; nothing is left of it."""
        before = len(self.events)
        process = self.start(under_make=way == "make killed")
        limit = time.monotonic() + LIMIT_S
        while not (len(self.events) > before and reached(self.events)):
            assert process.poll() is None, self.said[-4000:]
            assert time.monotonic() < limit, self.said[-4000:]
            time.sleep(0.2)
        if way == "interrupted":
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        else:
            process.kill()
        status = process.wait(GONE_S)
        self.assert_gone()
        assert status == (130 if way == "interrupted" else -signal.SIGKILL), self.said[-4000:]

    def kill(self) -> None:
        """SIGKILL for whatever of it still runs."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def processes(self) -> list[psutil.Process]:
        """Every process that inherited this job's mark, however it was orphaned."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get("MSTAR_TEST") == str(self.out)
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def assert_gone(self) -> None:
        """Nothing of it runs any more, once its processes had time to end."""
        end = time.monotonic() + GONE_S
        while self.processes() and time.monotonic() < end:
            time.sleep(0.5)
        left = [one.cmdline() for one in self.processes()]
        assert not left, left


def accepted(events: list[Event], purpose: str) -> bool:
    """A shard of this purpose was accepted."""
    return any(e["type"] == "shard_accepted" and e["purpose"] == purpose for e in events)


def assert_nothing_twice(events: list[Event], iterations: int = 2) -> None:
    """The run is finished, and no shard or iteration was recorded more than once."""
    shards = [(e["purpose"], e["index"]) for e in events if e["type"] == "shard_accepted"]
    assert len(shards) == len(set(shards))
    closed = [e["iteration"] for e in events if e["type"] == "iteration_closed"]
    assert closed == list(range(iterations))
    jobs = [e["job"] for e in events if e["type"] == "job_done"]
    assert len(jobs) == len(set(jobs))
    assert events[-1]["type"] == "finished"
