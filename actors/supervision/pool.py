"""A fixed number of actors that are kept alive, and the work that is handed to them in order.

What always holds:

* every piece of work that was submitted ends in exactly one `Result`, whatever dies;
* work is dispatched in the order it was submitted, what has to be tried again first;
* work that was on an engine when it died is tried again *alone* on one: if it is what kills
  engines, it takes no other work with it, and after `attempts` it is given up;
* an engine that died, hung or raised is replaced, after a pause that grows with every loss in a
  row, and each loss is reported;
* nothing outlives the process that made the pool: Ray ends its actors and frees its placement
  groups, and an engine runs in its actor's own process.

One member:

    waiting ──(pause over)──► starting ──(start() returned)──► ready ──(died, hung, raised)──┐
       ▲                          └──────(died, took longer than start_s)─────────────────┐  │
       └──────────────────────────────────────────────────────────────────────────────────┴──┘

An actor class of this pool has three methods: `start() -> CallResult` makes it able to work,
`run(work) -> CallResult` does one piece of work, and `progress() -> (count, doing)` answers at
once, from another thread, with a count that grows while work moves. A member whose count stands
still for `hang_s` while it has work is hung. Time only counts while the pool is polled, so a driver
that was itself asleep does not take its fleet for hung.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from actors.supervision.failures import CallResult, Failure
from pipeline.errors import UserError

_log = logging.getLogger("mstar.pool")


@dataclass(frozen=True)
class PoolSettings:
    """How many actors, what each asks of Ray, and how much patience there is.

    inflight: pieces of work on one actor at a time. start_s: seconds a start may take, once there
    is room for it. hang_s: seconds without progress. attempts: engines that one piece of work may
    lose, and starts in a row that may fail, before it is given up. backoff_s: first pause after a
    loss, doubled each time up to backoff_most_s. environment: variables of the actors' processes.
    here: actors run on this process's own node, beside what else is there, and ask for no room.
    """

    size: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    inflight: int = 1
    start_s: float = 600.0
    hang_s: float = 600.0
    heartbeat_s: float = 2.0
    attempts: int = 5
    backoff_s: float = 1.0
    backoff_most_s: float = 60.0
    environment: Mapping[str, str] = field(default_factory=dict)
    here: bool = False


class Work(Protocol):
    """A piece of work: a frozen dataclass, sent to an actor as it is. `key` names it."""

    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Result:
    """How one piece of work ended. `seconds`: on the member that ended it. `killed`: how many died
    or hung while they had nothing else to do."""

    key: str
    value: Any
    failure: Failure | None
    attempts: int
    seconds: float
    member: str
    killed: int = 0


class PoolBroken(UserError):
    """No member can be started, whatever was tried: the last reason is in the message."""


@dataclass(order=True)
class _Task:
    """One piece of work, ordered as it is dispatched. losses: engines that died under it."""

    fresh: bool
    order: int
    work: Work = field(compare=False)
    losses: int = field(default=0, compare=False)
    killed: int = field(default=0, compare=False)
    not_before: float = field(default=0.0, compare=False)
    begun: float = field(default=0.0, compare=False)


@dataclass
class _Member:
    """One actor, or the place where the next one will be.

    start, beat, runs: calls under way. count, doing: its last answer to `progress`. still_s:
    seconds since that count moved (starting: since it had room to start). due: when to start.
    """

    name: str
    state: Literal["waiting", "starting", "ready"] = "waiting"
    due: float = 0.0
    losses: int = 0
    failed_starts: int = 0
    group: PlacementGroup | None = None
    actor: Any = None
    start: Any = None
    beat: Any = None
    runs: dict[Any, _Task] = field(default_factory=dict)
    placed: bool = False
    count: int = -1
    doing: str = ""
    still_s: float = 0.0
    asked: float = 0.0


class Pool:
    """Members of one actor class. Not for several threads: one driver submits and polls."""

    def __init__(
        self,
        actor: type,
        args: Sequence[Any],
        settings: PoolSettings,
        *,
        name: str = "engine",
        say: Callable[[str], None] = _log.warning,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._actor = ray.remote(actor)
        self._args = tuple(args)
        self._say = say
        self._clock = clock
        self._members = [_Member(f"{name}-{index}") for index in range(settings.size)]
        self._queue: list[_Task] = []
        self._keys: set[str] = set()
        self._orders = 0
        self._results: list[Result] = []
        self._last = clock()

    # --- for the driver ------------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """Have this done. Submitting what is under way does nothing."""
        if work.key in self._keys:
            return
        self._keys.add(work.key)
        self._orders += 1
        heapq.heappush(self._queue, _Task(True, self._orders, work))

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        """What has ended, as soon as something has, after `timeout_s` at the latest.

        Raises:
            PoolBroken: when no member can be started.
            UserError: when `start` says what a person has to mend.
        """
        end = self._clock() + timeout_s
        while True:
            self._tend()
            pause = min(max(end - self._clock(), 0.0), self.settings.heartbeat_s / 2)
            self._collect(0.0 if self._results else pause)
            self._dispatch(self._clock())
            if self._results or self._clock() >= end:
                ended, self._results = self._results, []
                self._keys -= {result.key for result in ended}
                return ended

    @property
    def outstanding(self) -> int:
        """Pieces of work without a result yet."""
        return len(self._keys)

    def close(self) -> None:
        """End every member at once."""
        for member in self._members:
            self._drop(member)

    # --- members -------------------------------------------------------------------------------

    def _tend(self) -> None:
        now = self._clock()
        # A poll that comes late (the driver was busy, or stopped) must not count as silence.
        passed = min(now - self._last, 2 * self.settings.heartbeat_s)
        self._last = now
        for member in self._members:
            if member.state == "waiting" and now >= member.due:
                self._start(member, now)
            elif member.state != "waiting":
                self._watch(member, now, passed)
        self._dispatch(now)

    def _place(self, member: _Member) -> dict[str, Any]:
        """Where the next actor of a member goes, as options of Ray."""
        settings = self.settings
        if settings.here:
            node = ray.get_runtime_context().get_node_id()
            strategy = NodeAffinitySchedulingStrategy(node, soft=False)
            return {"num_cpus": 0, "scheduling_strategy": strategy}
        sizes = {"CPU": settings.cpus, "GPU": settings.gpus}
        # One small group each: an engine fits in anywhere, and a lost one is placed anew.
        member.group = placement_group([{key: size for key, size in sizes.items() if size}])
        return {
            "num_cpus": settings.cpus,
            "num_gpus": settings.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(member.group, 0),
        }

    def _start(self, member: _Member, now: float) -> None:
        settings = self.settings
        member.actor = self._actor.options(
            **self._place(member),
            # Threads for the work, for `progress`, and one to spare.
            max_concurrency=settings.inflight + 2,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": dict(settings.environment)},
        ).remote(*self._args)
        member.start = member.actor.start.remote()
        member.state, member.doing = "starting", "waiting for room"
        member.placed = settings.here
        member.count, member.still_s, member.asked = -1, 0.0, now

    def _watch(self, member: _Member, now: float, passed: float) -> None:
        if member.beat is None and now - member.asked >= self.settings.heartbeat_s:
            member.beat, member.asked = member.actor.progress.remote(), now
            if not member.placed:
                self._look_for_room(member)
        if member.state == "starting":
            member.still_s += passed if member.placed else 0.0
            if member.still_s > self.settings.start_s:
                self._lose(member, f"it did not start within {self.settings.start_s:g} s")
        else:
            member.still_s = member.still_s + passed if member.runs else 0.0
            if member.still_s > self.settings.hang_s:
                last = f", after {member.doing}" if member.doing else ""
                self._lose(member, f"no progress for {self.settings.hang_s:g} s{last}")

    def _look_for_room(self, member: _Member) -> None:
        member.placed = placement_group_table(member.group)["state"] == "CREATED"
        if member.placed:
            member.doing = "starting"
        elif member.count == -1:
            member.count = -2  # said once
            free = {key: ray.available_resources().get(key, 0.0) for key in ("CPU", "GPU")}
            self._say(
                f"{member.name} waits for room: it needs {self.settings.cpus:g} CPU and "
                f"{self.settings.gpus:g} GPU; free are {free['CPU']:g} and {free['GPU']:g}"
            )

    def _lose(self, member: _Member, reason: str) -> None:
        """Replace a member; its work goes back to the front of the queue."""
        tasks = list(member.runs.values())
        starting = member.state == "starting"
        self._drop(member)
        member.losses += 1
        member.failed_starts = member.failed_starts + 1 if starting else 0
        pause = self._pause(member.losses)
        member.due = self._clock() + pause
        ids = ", ".join(str(task.work.key) for task in tasks)
        again = f"; to be done again: {ids}" if ids else ""
        self._say(f"{member.name} lost: {reason}. A new one starts in {pause:g} s{again}")
        for task in tasks:
            task.killed += len(tasks) == 1
            self._again(task, Failure("infrastructure", reason), member)
        if all(each.failed_starts >= self.settings.attempts for each in self._members):
            raise PoolBroken(f"{member.name} cannot be started: {reason}")

    def _drop(self, member: _Member) -> None:
        if member.actor is not None:
            ray.kill(member.actor, no_restart=True)
        if member.group is not None:
            remove_placement_group(member.group)
        member.state, member.doing = "waiting", ""
        member.actor = member.group = member.start = member.beat = None
        member.runs = {}

    def _pause(self, losses: int) -> float:
        return min(self.settings.backoff_s * 2.0 ** (losses - 1), self.settings.backoff_most_s)

    # --- work ----------------------------------------------------------------------------------

    def _again(self, task: _Task, failure: Failure, member: _Member) -> None:
        """Put work back to the front, or give it up after too many engines."""
        task.losses += 1
        if task.losses >= self.settings.attempts:
            self._end(task, None, failure, member)
            return
        task.fresh = False
        heapq.heappush(self._queue, task)

    def _end(self, task: _Task, value: Any, failure: Failure | None, member: _Member) -> None:
        attempts = task.losses + (failure is None or failure.kind != "infrastructure")
        seconds = self._clock() - task.begun
        self._results.append(
            Result(task.work.key, value, failure, attempts, seconds, member.name, task.killed)
        )

    def _dispatch(self, now: float) -> None:
        resting = []
        while self._queue:
            task = heapq.heappop(self._queue)
            if task.not_before > now:
                resting.append(task)
                continue
            member = self._free_member(alone=not task.fresh)
            if member is None:
                # Nothing overtakes it: a member that is to work on it alone has to run empty first.
                resting.append(task)
                break
            task.begun = now
            member.still_s = 0.0 if not member.runs else member.still_s
            member.runs[member.actor.run.remote(task.work)] = task
        for task in resting:
            heapq.heappush(self._queue, task)

    def _free_member(self, alone: bool) -> _Member | None:
        """The ready member with the least to do that can take one more piece of work."""
        most = 0 if alone else self.settings.inflight - 1
        free = [
            member
            for member in self._members
            if member.state == "ready"
            and len(member.runs) <= most
            and all(task.fresh for task in member.runs.values())
        ]
        return min(free, key=lambda member: len(member.runs), default=None)

    # --- answers -------------------------------------------------------------------------------

    def _collect(self, timeout_s: float) -> None:
        waiting: dict[Any, _Member] = {}
        for member in self._members:
            for ref in (member.start, member.beat, *member.runs):
                if ref is not None:
                    waiting[ref] = member
        if not waiting:
            time.sleep(timeout_s)
            return
        refs = list(waiting)
        ray.wait(refs, num_returns=1, timeout=timeout_s)
        ended, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ended:
            self._take(waiting[ref], ref)

    def _take(self, member: _Member, ref: Any) -> None:
        if ref not in (member.start, member.beat, *member.runs):
            return  # the member was lost while another of its calls was looked at
        try:
            answer = ray.get(ref)
        except RayError as error:
            self._lose(member, _reason(error))
            return
        if ref == member.beat:
            member.beat = None
            if answer[0] != member.count:
                member.still_s = 0.0 if member.state == "ready" else member.still_s
            member.placed = True
            member.count, member.doing = answer
        elif ref == member.start:
            self._started(member, answer)
        else:
            self._finished(member, member.runs.pop(ref), answer)

    def _started(self, member: _Member, result: CallResult) -> None:
        member.start = None
        if result.failure is None:
            member.state, member.doing, member.still_s = "ready", "", 0.0
            member.failed_starts = 0
        elif result.failure.kind == "user":
            raise UserError(result.failure.reason)
        else:
            self._lose(member, result.failure.reason)

    def _finished(self, member: _Member, task: _Task, result: CallResult) -> None:
        member.losses, member.still_s = 0, 0.0
        failure = result.failure
        if failure is None or failure.kind != "infrastructure":
            self._end(task, result.value, failure, member)
            return
        task.not_before = self._clock() + self._pause(task.losses + 1)
        self._say(f"{member.name}: {task.work.key} failed and is done again: {failure.reason}")
        self._again(task, failure, member)


def _reason(error: RayError) -> str:
    """One line of what happened; Ray's own texts are a page."""
    if isinstance(error, RayTaskError):
        return f"it raised {type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class PoolLike(Protocol):
    """What the driver's workers use of a `Pool`."""

    def submit(self, work: Any) -> None: ...
    def poll(self, timeout_s: float = 0.0) -> list[Result]: ...
