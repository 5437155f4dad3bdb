"""The runs of an ablation: one after the other in one process, or several at once in their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import yaml

from jobs.ablate.store import ResultsFile, finished_run, results_of
from jobs.runtime.cli import MAKE
from jobs.runtime.prepare import out_folder
from jobs.runtime.world import Say
from pipeline.ablation.cells import RunOfCells, startable
from pipeline.ablation.results import Result, expected_s, steps_of
from pipeline.reports.tables import percent

LOOK_S = 0.5

SAY_S = 60.0

STOP_S = 120.0

LAST_LINES = 12


class Started(Protocol):
    """A run that was begun."""

    def code(self) -> int | None:
        """Its exit code; None: it is under way."""

    def stop(self) -> None:
        """End it; it goes on when it is begun again."""


Start = Callable[[Path, Path], Started]
"""Begins the run of a recipe file, whose lines go into a log."""


class Process:
    """`mstar-ray run` as a process, which ends when this one does."""

    def __init__(self, recipe: Path, log: Path) -> None:
        command = [sys.executable, "-m", "jobs", "run", "--recipe", str(recipe)]
        with log.open("a", encoding="utf-8") as lines:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=subprocess.STDOUT,
                env={**os.environ, MAKE: str(os.getpid())},
                start_new_session=True,  # Ctrl-C is for this process, which ends its runs
            )

    def code(self) -> int | None:
        return self._process.poll()

    def stop(self) -> None:
        self._process.terminate()
        _ended(self._process)


def start_run(recipe: Path, log: Path) -> Started:
    """A run in a process of its own."""
    return Process(recipe, log)


class Runner:
    """Begins runs one after the other in one process (`jobs.ablate.runner`), which keeps what they
    share. After a run that ended it, the next one begins another process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._codes: SimpleQueue[int] = SimpleQueue()

    def __call__(self, recipe: Path, log: Path) -> Started:
        if self._process is None or self._process.poll() is not None:
            self._launch()
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(json.dumps([str(recipe), str(log)]) + "\n")
        process.stdin.flush()
        return _AtRunner(process, self._codes)

    def _launch(self) -> None:
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "jobs.ablate.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, MAKE: str(os.getpid())},
            start_new_session=True,  # Ctrl-C is for this process, which ends its runs
        )
        codes = self._codes = SimpleQueue()

        def listen() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                codes.put(int(line))

        threading.Thread(target=listen, name="runner", daemon=True).start()

    def close(self) -> None:
        """End the process and what it keeps."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            _ended(process)


class _AtRunner:
    """A run that a runner is at, or was."""

    def __init__(self, process: subprocess.Popen[str], codes: SimpleQueue[int]) -> None:
        self._process, self._codes = process, codes

    def code(self) -> int | None:
        ended = self._process.poll()
        if not self._codes.empty():
            return self._codes.get()
        return None if ended is None else ended or 1

    def stop(self) -> None:
        self._process.terminate()
        _ended(self._process)


def _ended(process: subprocess.Popen[Any]) -> None:
    """Wait for a process that was told to end; in the end, kill it."""
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class _UnderWay:
    number: int
    run: RunOfCells
    started: Started
    log: Path
    since: float


class _Runs:
    """Those to do, under way and done."""

    def __init__(
        self, todo: Sequence[RunOfCells], file: ResultsFile, start: Start, say: Say
    ) -> None:
        self.waiting = list(todo)
        self.under_way: list[_UnderWay] = []
        self.done: list[RunOfCells] = []
        self.count = len(todo)
        self._file, self._start, self._say = file, start, say

    def begin(self, run: RunOfCells) -> None:
        """Start a run, unless the store has it finished."""
        self.waiting.remove(run)
        number = self.count - len(self.waiting)
        if self._recorded(number, run, 0.0):
            return
        if run.steps_of is not None:
            run = run.with_steps(steps_of(run.steps_of, self._file.read()))
        folder = out_folder(run.config)
        folder.mkdir(parents=True, exist_ok=True)
        recipe, log = folder / "recipe.yaml", folder / "log.txt"
        given = run.config.model_dump(mode="json", exclude_unset=True)
        recipe.write_text(yaml.safe_dump(given), "utf-8")
        self._say(f"run {number} of {self.count}: {run} ({log})")
        since = time.monotonic()
        started = self._start(recipe, log)
        self.under_way.append(_UnderWay(number, run, started, log, since))

    def look(self) -> int:
        """Take up what has ended; the exit code of a run that failed, else 0."""
        for one in list(self.under_way):
            code = one.started.code()
            if code is None:
                continue
            self.under_way.remove(one)
            took = time.monotonic() - one.since
            if code == 130:
                raise KeyboardInterrupt
            if code != 0 or not self._recorded(one.number, one.run, took):
                self._say(f"run {one.number} of {self.count}: {one.run} ended with exit code "
                          f"{code}; {one.log} ends with\n{_tail(one.log, LAST_LINES)}")  # fmt: skip
                return code or 1
        return 0

    def _recorded(self, number: int, run: RunOfCells, took: float) -> bool:
        """Put the results of a run into the file, where it is finished."""
        found = finished_run(run.config, self._say)
        if found is None:
            return False
        results = results_of(run, found, self._say)
        self._file.put(results)
        self.done.append(run)
        shown = ", ".join(f"{one.row} {percent(one.test)}" for one in _distinct(results))
        self._say(f"run {number} of {self.count} done, {took:.0f} s: test {shown} %{self._left()}")
        return True

    def _left(self) -> str:
        todo = [*self.waiting, *(one.run for one in self.under_way)]
        seconds = expected_s(todo, self._file.read())
        if not todo or seconds is None:
            return ""
        return f"; {len(todo)} to do, about {seconds / 60:.0f} minutes of runs"

    def say_where(self) -> None:
        """What the runs under way last said."""
        for one in self.under_way:
            self._say(f"run {one.number} of {self.count}: {_tail(one.log, 1)}")


def compute(
    todo: Sequence[RunOfCells], file: ResultsFile, start: Start, *, at_once: int, say: Say
) -> int:
    """Do these runs and put their results into the file, one after the other is done.

    Returns:
        0, or the exit code of the first run that failed; the others are stopped and go on when the
        command is given again.

    Raises:
        KeyboardInterrupt: this, or a run, was interrupted.
    """
    runs, said = _Runs(todo, file, start, say), time.monotonic()
    try:
        while runs.waiting or runs.under_way:
            busy = [one.run for one in runs.under_way]
            free = startable(runs.waiting, busy, runs.done)
            for run in list(islice(free, at_once - len(busy))):
                runs.begin(run)
            if code := runs.look():
                return code
            if time.monotonic() - said > SAY_S:
                runs.say_where()
                said = time.monotonic()
            if runs.under_way:
                time.sleep(LOOK_S)
    finally:
        for one in runs.under_way:
            one.started.stop()
    return 0


def _distinct(results: Sequence[Result]) -> list[Result]:
    """The first result of each row."""
    return list({one.row: one for one in reversed(results)}.values())[::-1]


def _tail(log: Path, lines: int) -> str:
    """The last lines of a file that are not empty."""
    if not log.exists():
        return ""
    with log.open(encoding="utf-8", errors="replace") as text:
        return "".join(deque((line for line in text if line.strip()), lines)).rstrip()
