"""What every open step works with: the run's state, its workers, and the only way to change either.

What always holds:

* the ledger is the only truth: `commit` writes first and folds afterwards the very events that a
  replay would read, so the driver may be killed at any instruction and started again anywhere;
* each worker is asked once a turn, and only when a step waits for it; every open step sees its
  answers. An answer that no step waits for is dropped.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from pipeline.errors import RunStopped
from pipeline.hashing import canonical_json
from pipeline.phases.steps import Step
from pipeline.refs import ShardSet
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.prm import LabelsLost
from pipeline.run.events.sampling import ObjectLost
from pipeline.run.events.training import Retired
from pipeline.run.events.wire import from_wire
from pipeline.run.lease import Lease
from pipeline.run.ledger import Ledger
from pipeline.run.spec import RunSpec
from pipeline.run.state import ShardState, State
from pipeline.stages.grade import TaskLost
from pipeline.stages.tasks import StageTask, TaskDone
from pipeline.stages.workers import Watch, Workers
from pipeline.storage.store import Store
from pipeline.training.finished import release

POLL_S = 0.05
# A shard or a checkpoint that is lost this often in one driver's life is not bad luck.
MAX_LOSSES = 5

Answer_co = TypeVar("Answer_co", covariant=True)


class Pollable(Protocol[Answer_co]):
    """A worker of any kind."""

    def poll(self) -> Sequence[Answer_co]: ...


class OpenStep(Protocol):
    """A step that is under way.

    `advance` never blocks: it hands out what can be handed out, takes in what has come back, and
    returns the events to commit. They are folded into the state before it is called again. After
    `done` it is not called any more. What a step remembers is only an optimisation: a driver that
    dies loses it, and the next one opens the step anew.
    """

    done: bool

    @property
    def step(self) -> Step: ...

    def advance(self, context: RunContext) -> Sequence[Event]: ...


class RunContext:
    """A run under way: what it is (`spec`), what it has done (`state`), and who works on it."""

    def __init__(
        self,
        spec: RunSpec,
        store: Store,
        ledger: Ledger,
        workers: Workers,
        watch: Watch,
        *,
        lease: Lease | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.spec = spec
        self.store = store
        self.ledger = ledger
        self.workers = workers
        self.watch = watch
        self.clock = clock
        self.state = State()
        self.lease = lease
        self._sleep = sleep
        self._started = clock()
        self._losses: Counter[str] = Counter()
        self._answers: dict[int, Sequence[Any]] = {}
        self._tasks: set[str] = set()  # handed out

    # -- recording ------------------------------------------------------------------------------

    def commit(self, events: Sequence[Event]) -> None:
        """Record events together: in the ledger first, then in the state.

        Raises:
            RunStopped: more queries cannot be used than the configuration allows.
        """
        wires = [self.stamped(event) for event in events]
        self.written(self.ledger.append(wires))
        self.fold(wires)

    def stamped(self, event: Event) -> dict[str, Any]:
        """An event as a replay will read it: plain JSON, with its time."""
        at = round(self.clock() - self._started, 3)
        wire: dict[str, Any] = json.loads(canonical_json(replace(event, at=at).to_wire()))
        return wire

    def written(self, position: int) -> None:
        """Let the lease tell a successor how far the ledger must reach."""
        if self.lease is not None:
            self.lease.position = position

    def fold(self, wires: Iterable[dict[str, Any]]) -> None:
        """Fold written events into the state, and do what follows from them."""
        bad_before = set(self.state.bad_queries)
        events = [from_wire(wire) for wire in wires]
        for event in events:
            self.state.apply(event)
        for event in events:
            self.watch.event(event, self.state)
        if any(isinstance(event, IterationClosed) for event in events):
            self.ledger.snapshot(self.state.to_dict())
        if any(isinstance(event, Retired) for event in events):
            self.delete_retired()
        self._check_bad_queries(bad_before)

    def delete_retired(self) -> None:
        """Delete the checkpoints that an event has retired, but for those that another run uses."""
        for path in self.state.retired:
            release(self.store, self.spec.config.run.name, path)

    def _check_bad_queries(self, before: set[str]) -> None:
        """Name the queries that are left out from now on; too many of them stop the run."""
        bad = self.state.bad_queries
        for query in bad.keys() - before:
            self.watch.say(f"left out: {self._named(query)}")
        allowed = self.spec.config.generate.max_bad_queries
        if len(bad) > allowed:
            raise RunStopped(
                f"{len(bad)} queries cannot be used, and generate.max_bad_queries = {allowed}:"
                + "".join(f"\n  {self._named(query)}" for query in list(bad)[:5])
            )

    def _named(self, query: str) -> str:
        record = self.spec.by_hash.get(query)
        return f"{record.query_id if record else query}: {self.state.bad_queries[query]}"

    # -- asking ---------------------------------------------------------------------------------

    def next_turn(self) -> None:
        """From now on workers are asked anew."""
        self._answers.clear()

    def answers(self, worker: Pollable[Answer_co]) -> Sequence[Answer_co]:
        """What a worker has answered between the last turn and this one."""
        if id(worker) not in self._answers:
            self._answers[id(worker)] = worker.poll()
        return self._answers[id(worker)]

    def hand_out(self, task: StageTask) -> None:
        """Have a task done, if it is not under way."""
        if task.key not in self._tasks:
            self._tasks.add(task.key)
            self.workers.stage.submit(task)

    def answer(self, task: StageTask) -> TaskDone | TaskLost | None:
        """What came of a task that was handed out; None while it is under way."""
        answers = self.answers(self.workers.stage)
        self._tasks.difference_update(answer.key for answer in answers)
        return next((answer for answer in answers if answer.key == task.key), None)

    def ask(self, task: StageTask) -> TaskDone | TaskLost | None:
        """`hand_out`, and the `answer` once there is one."""
        self.hand_out(task)
        return self.answer(task)

    def rest(self) -> None:
        """Nothing is ready: let others work.

        Raises:
            RunStopped: nothing can ever be ready again (`Workers.check`).
        """
        self.workers.check()
        self._sleep(POLL_S)

    # -- what is corrupt or gone ----------------------------------------------------------------

    def loss(self, purpose: ShardSet, path: str, reason: str) -> ObjectLost:
        """The event that gives up a corrupt or missing object of a purpose, to be made again.

        Raises:
            RunStopped: it belongs to no open shard, or it is lost again and again.
        """
        for index, shard in self.state.shards.get(purpose, {}).items():
            if path in _objects(shard):
                self.count_loss(f"shard {index} of {purpose}", path, reason)
                self.watch.say(f"{path} is lost ({reason}): it is made again")
                return ObjectLost(purpose, index, path=path, reason=reason)
        raise RunStopped(f"{path} is corrupt or gone, and nothing can make it again: {reason}")

    def loss_anywhere(self, path: str, reason: str) -> ObjectLost:
        """`loss`, of whichever purpose the object belongs to."""
        for purpose, shards in self.state.shards.items():
            if any(path in _objects(shard) for shard in shards.values()):
                return self.loss(ShardSet(purpose), path, reason)
        raise RunStopped(f"{path} is corrupt or gone, and nothing can make it again: {reason}")

    def labels_lost(self, path: str, reason: str) -> LabelsLost:
        """The event that gives up the step values, to be made again from their completions.

        Raises:
            RunStopped: it is not they that are lost, or they are lost again and again.
        """
        if self.state.labels is None or path != self.state.labels["path"]:
            raise RunStopped(f"{path} is corrupt or gone, and nothing can make it again: {reason}")
        self.count_loss("the step values", path, reason)
        return LabelsLost(path=path, reason=reason)

    def count_loss(self, what: str, path: str, reason: str) -> None:
        """One more loss of `what` in this driver's life.

        Raises:
            RunStopped: they are too many.
        """
        self._losses[what] += 1
        if self._losses[what] > MAX_LOSSES:
            raise RunStopped(
                f"{what} was lost {MAX_LOSSES + 1} times, the last time {path}: {reason}. "
                "The store does not keep what it is given."
            )

    def may_lose(self, path: str) -> bool:
        """Whether an object has been lost less often than is bad luck."""
        return self._losses[path] < MAX_LOSSES

    def mended(self, path: str, reason: str) -> bool:
        """Put an object that no shard of ours made back into the store, if somebody has a copy."""
        self._losses[path] += 1
        if self._losses[path] > MAX_LOSSES or not self.workers.repair(path):
            return False
        self.watch.say(f"{path} was lost ({reason}) and has been put back")
        return True


def _objects(shard: ShardState) -> tuple[str | None, ...]:
    return shard.rollout, shard.grades, shard.classes or None, shard.scores, shard.selected
