"""The pool of grading processes: a deadline for every answer, whatever its expression does.

    grade_many -- batches --> worker --+-- an outcome each
         ^                             |-- killed at its deadline: the answer is `timeout`
         |                             |-- died or stalled: its answer is tried once more
         `-- the rest of the batch ----'-- raised: named in `GradingFailed`, never an outcome

What always holds: every answer gets its own outcome, in the order given, and one that hangs or
crashes costs the others nothing but a process start. Only time, memory and crashes make `timeout`;
a grader that fails is an exception. No signals and no threads of its own: any thread may call it.
Workers are children started by name (`actors.grading.worker`), not by multiprocessing, whose spawn
would import the parent's main module, ray and all, into each; they end with their parent.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from pipeline.answer_shapes import Shape, StatedAnswer, stated_answer
from pipeline.errors import BadData, UserError
from pipeline.grading.grade import MAX_ANSWER_CHARS, Gold, Outcome, gold_of
from pipeline.query import Query

# A batch fits into an empty pipe (64 KiB), so handing it over never waits.
BATCH_ITEMS = 64
BATCH_BYTES = 32 * 1024

START_ATTEMPTS = 3
ATTEMPTS = 2

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class GradeResult:
    """The outcome of a response and the answer it was read from (None: there was none).

    shape: in which the answer was stated; None with no answer.
    reason: why the answer could not be compared, where it should have been possible.
    """

    outcome: Outcome
    extracted: str | None
    reason: str | None = None
    shape: str | None = None


def _unread(stated: StatedAnswer | None) -> GradeResult:
    """Before its answer is compared."""
    if stated is None:
        return GradeResult("unparsed", None)
    return GradeResult("unparsed", stated.text, shape=stated.shape)


class GradingFailed(BadData):
    """Answers that could not be graded: a gold answer not of its type, or a fault of the grader.

    failures: position among the items and the reason, one for each answer without an outcome.
    results: in the order of the items, None for the failures.
    """

    def __init__(
        self, failures: Sequence[tuple[int, str]], results: Sequence[GradeResult | None]
    ) -> None:
        self.failures = tuple(failures)
        self.results = tuple(results)
        more = f"\n(and {len(failures) - 5} more)" if len(failures) > 5 else ""
        reasons = "\n".join(reason for _, reason in failures[:5])
        super().__init__(f"{len(failures)} answers could not be graded:\n{reasons}{more}")


class GraderUnavailable(UserError):
    """Grading processes die before they are ready."""


@dataclass(frozen=True)
class _Task:
    answer: str
    gold: Gold

    def message(self, index: int) -> bytes:
        gold = [self.gold.query_id, self.gold.answer, self.gold.answer_type, self.gold.choices]
        return json.dumps([index, self.answer, gold]).encode()


Fault = Literal["failed", "broken"]


@dataclass
class _Worker:
    """One process.

    pending: what it was handed and has not answered, the one at work first.
    since: when it last gave a sign of life or was handed a batch; in time.monotonic() seconds.
    ready: it has started.
    unread: the beginning of a line.
    broken: the grader raised; the process says so and ends.
    """

    process: subprocess.Popen[bytes]
    ready: bool = False
    pending: deque[int] = field(default_factory=deque)
    since: float = field(default_factory=time.monotonic)
    unread: bytes = b""
    broken: bool = False

    @property
    def output(self) -> int:
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def hand(self, batch: Sequence[int], line: bytes) -> bool:
        """Give it a batch; False when the process is gone."""
        assert self.process.stdin is not None
        self.pending.extend(batch)
        self.since = time.monotonic()
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[self.process.stdin.write(rest) :]
        except BrokenPipeError:
            return False
        return True

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


class GradePool:
    """At most `processes` grading processes, started when needed and kept until `close`.

    Args:
        deadline_s: seconds of processor time for one answer, rounded up to whole seconds, imports
            not counted. Wall time would make outcomes depend on what else the machine does.
        shapes: in which an answer is read besides ours.
        start_s, stall_s: seconds of wall-clock time (a busy machine is slow) without any sign of
            life after which a process is given up, while it starts and at work: one that was
            stopped, or waits for a disk that is gone.
    """

    WORKER: ClassVar[tuple[str, ...]] = ("-m", "actors.grading.worker")

    def __init__(
        self,
        processes: int,
        deadline_s: float,
        shapes: Collection[Shape] = (),
        *,
        start_s: float = 600.0,
        stall_s: float = 300.0,
    ) -> None:
        if processes < 1 or not deadline_s > 0:
            raise ValueError(f"needs processes >= 1 and deadline_s > 0: {processes}, {deadline_s}")
        self._processes = processes
        self._deadline_s = deadline_s
        self._shapes = shapes
        self._start_s = start_s
        self._stall_s = stall_s
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """The processes alive now."""
        return [worker.process.pid for worker in list(self._workers)]

    def close(self) -> None:
        """End all processes. Waits for a `grade_many` in another thread."""
        with self._lock:
            self._closed = True
            for worker in list(self._workers):
                self._drop(worker)
            self._selector.close()

    def grade_many(self, items: Sequence[tuple[str, Query]]) -> list[GradeResult]:
        """One result for each (response text, query), in order; equal answers are graded once.

        Raises:
            GradingFailed: after everything else is graded, when some could not be.
            GraderUnavailable: when no grading process can be started.
        """
        results = [_unread(stated_answer(text, self._shapes)) for text, _ in items]
        places: dict[_Task, list[int]] = {}
        for place, ((_, query), result) in enumerate(zip(items, results, strict=True)):
            if result.extracted is not None and len(result.extracted) <= MAX_ANSWER_CHARS:
                places.setdefault(_Task(result.extracted, gold_of(query)), []).append(place)
        run = self._graded(list(places))
        failures: dict[int, str] = {}
        for index, positions in enumerate(places.values()):
            for place in positions:
                if index in run.failed:
                    failures[place] = run.failed[index]
                else:
                    outcome, reason = run.outcomes[index], run.reasons.get(index)
                    results[place] = replace(results[place], outcome=outcome, reason=reason)
        if failures:
            graded = [None if place in failures else each for place, each in enumerate(results)]
            raise GradingFailed(sorted(failures.items()), graded)
        return results

    def _graded(self, tasks: list[_Task]) -> _Run:
        with self._lock:
            if self._closed:
                raise RuntimeError("the grade pool is closed")
            run = _Run(tasks)
            try:
                self._work(run)
            finally:
                for worker in [worker for worker in self._workers if worker.pending]:
                    self._drop(worker)
        return run

    def _work(self, run: _Run) -> None:
        while not run.done:
            self._hand_out(run)
            for key, _ in self._selector.select(self._patience()):
                if not self._read(key.data, run):
                    self._died(key.data, run)
            now = time.monotonic()
            for worker in [w for w in self._workers if self._limit(w) <= now]:
                worker.process.kill()
                while self._read(worker, run):
                    pass
                self._died(worker, run)

    def _hand_out(self, run: _Run) -> None:
        """Batches to idle workers, and new workers while there is more to do than idle ones."""
        for worker in [w for w in self._workers if w.ready and not w.pending]:
            if not run.queue:
                return
            batch, line = run.next_batch(self._processes)
            if not worker.hand(batch, line):
                self._drop(worker)
                run.take_back(batch)
        waiting = sum(not worker.ready for worker in self._workers)
        wanted = min(-(-len(run.queue) // BATCH_ITEMS), self._processes) - waiting
        for _ in range(min(wanted, self._processes - len(self._workers))):
            self._start()

    def _start(self) -> None:
        path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            [sys.executable, "-P", *self.WORKER, str(self._deadline_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            bufsize=0,
        )
        worker = _Worker(process)
        self._workers.append(worker)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.output)
        worker.end()

    def _limit(self, worker: _Worker) -> float:
        """When this worker must have given a sign of life; never, for an idle one."""
        if not worker.ready:
            return worker.since + self._start_s
        return worker.since + self._stall_s if worker.pending else float("inf")

    def _patience(self) -> float | None:
        nearest = min(map(self._limit, self._workers))
        return None if nearest == float("inf") else max(0.0, nearest - time.monotonic())

    def _read(self, worker: _Worker, run: _Run) -> bool:
        """Take in what the worker has written; False at the end of its life."""
        data = os.read(worker.output, 1 << 16)
        *lines, worker.unread = (worker.unread + data).split(b"\n")
        for line in lines:
            first, *rest = json.loads(line)
            if isinstance(first, str):
                worker.ready = True
                continue
            worker.pending.remove(first)
            run.settle(first, *rest)
            worker.broken = rest[0] == "broken"
        worker.since = time.monotonic()
        return bool(data)

    def _died(self, worker: _Worker, run: _Run) -> None:
        """A worker has ended: what it was at may be to blame, the rest of its batch is not."""
        self._drop(worker)
        if not worker.ready:
            run.start_failed()
        elif worker.pending and worker.process.returncode == -signal.SIGXCPU:
            run.settle(worker.pending[0], "timeout")
        elif worker.pending and not worker.broken:
            run.crashed(worker.pending[0])
        run.take_back(worker.pending)


class _Run:
    """One `grade_many`: which tasks wait, and what became of the others."""

    def __init__(self, tasks: Sequence[_Task]) -> None:
        self._tasks = tasks
        self.queue = deque(range(len(tasks)))
        self.outcomes: dict[int, Outcome] = {}
        self.reasons: dict[int, str] = {}
        self.failed: dict[int, str] = {}
        self._crashes: Counter[int] = Counter()
        self._failed_starts = 0

    @property
    def done(self) -> bool:
        return len(self.outcomes) + len(self.failed) == len(self._tasks)

    def next_batch(self, processes: int) -> tuple[list[int], bytes]:
        """The next tasks in order, and the line that hands them over."""
        most = min(BATCH_ITEMS, -(-len(self.queue) // processes))
        batch: list[int] = []
        messages: list[bytes] = []
        size = 0
        while self.queue and len(batch) < most:
            message = self._tasks[self.queue[0]].message(self.queue[0])
            size += len(message) + 1
            if batch and size > BATCH_BYTES:
                break
            batch.append(self.queue.popleft())
            messages.append(message)
        return batch, b"[" + b",".join(messages) + b"]\n"

    def settle(self, index: int, verdict: Outcome | Fault, reason: str = "") -> None:
        """What became of a task: its outcome, a fault of its own, or one of the grader."""
        self._failed_starts = 0
        if verdict == "failed":
            self.failed[index] = reason
        elif verdict == "broken":
            task = self._tasks[index]
            self.failed[index] = (
                f"query {task.gold.query_id}: the grader raised on {task.answer!r}\n{reason}"
            )
        else:
            self.outcomes[index] = verdict
            if reason:
                self.reasons[index] = reason

    def crashed(self, index: int) -> None:
        """A process died at this task: once may be chance (it is tried again), twice is not."""
        self._crashes[index] += 1
        if self._crashes[index] == ATTEMPTS:
            self.settle(index, "timeout")

    def start_failed(self) -> None:
        self._failed_starts += 1
        if self._failed_starts == START_ATTEMPTS:
            raise GraderUnavailable(
                f"{START_ATTEMPTS} grading processes in a row ended before they were ready; "
                "what they wrote to stderr says why"
            )

    def take_back(self, pending: Sequence[int]) -> None:
        """Put what is not settled at the head of the queue, in order."""
        settled = self.outcomes.keys() | self.failed.keys()
        self.queue.extendleft(i for i in reversed(pending) if i not in settled)
