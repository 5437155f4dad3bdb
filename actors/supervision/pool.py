"""Actors that are kept alive, as many as there is work for, and the work handed to them in order.

What always holds:

* every piece of work that was submitted ends in exactly one `Result`, whatever dies;
* how many actors there are is decided by `pipeline.generation.pool_size`, and each change of it is
  kept for whoever records it (`resized`);
* work is dispatched in the order it was submitted. What was on an engine when that died is tried
  again *alone* on one, so that what kills engines takes no other work with it, and on half of the
  engines at most, so that it holds nothing up; after `attempts` it is given up;
* an engine that died, hung or raised is replaced, after a pause that grows with every loss in a
  row, and each loss is reported. One that went with its node is replaced at once, and neither it
  nor its work is blamed;
* when every engine was lost `attempts` times and nothing ended in between, the pool breaks with
  the engine's own error;
* nothing outlives the process that made the pool: Ray ends its actors and frees its placement
  groups, and an engine runs in its actor's own process.

One member:

    waiting ──(pause over)──► starting ──(start() returned)──► ready ──(died, hung, raised)──┐
       ▲                          └──────(died, no progress for start_s)──────────────────┐  │
       └──────────────────────────────────────────────────────────────────────────────────┴──┘

An actor class of this pool has three methods: `start(work) -> CallResult` makes it able to do such
work and fails where it cannot (its value, if any, is what it runs as, which is reported once),
`run(work) -> CallResult` does one piece of work, and `progress() -> (count, doing)` answers at
once, from another thread, with a count that grows while work moves. A member whose count stands
still for `hang_s` while it has work is hung. Time only counts while the pool is tended, so a driver
that was itself asleep does not take its fleet for hung.
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from actors.supervision.failures import CallResult, Failure
from actors.supervision.members import Member, Task, Work
from actors.supervision.ray_actors import ActorLost, ActorOptions, Actors, RayActors
from actors.supervision.waiting import WaitingNote
from pipeline.config.schema import Cluster
from pipeline.errors import UserError
from pipeline.generation.pool_size import PoolLimits, PoolLoad, PoolSize, pool_size

_log = logging.getLogger("mstar.pool")


@dataclass(frozen=True)
class PoolSettings:
    """How many actors, what each asks of Ray, and how much patience there is.

    size: members at most; least: members that stay without work (None: `size`), the others are
    given back after idle_s. inflight: pieces of work on one actor at a time. start_s: seconds
    without progress of a start, once there is room for it; hang_s: of work. attempts: engines that
    one piece of work may lose, and losses in a row of every member after which the pool breaks.
    unreachable_s: within which the cluster has to know that the node of a member which does not
    answer is dead (Ray's own patience is 30 s); after it the member is lost by itself.
    backoff_s: first pause after a loss, doubled each time up to backoff_most_s. environment:
    variables of the actors' processes. other: a custom resource of which each takes one. here:
    actors run on this process's own node, beside what else is there, and ask for no room.
    """

    size: int = 1
    least: int | None = None
    idle_s: float = 300.0
    cpus: float = 1.0
    gpus: float = 0.0
    other: str | None = None
    inflight: int = 1
    start_s: float = 600.0
    hang_s: float = 600.0
    heartbeat_s: float = 2.0
    unreachable_s: float = 60.0
    attempts: int = 5
    backoff_s: float = 1.0
    backoff_most_s: float = 60.0
    environment: Mapping[str, str] = field(default_factory=dict)
    here: bool = False

    @classmethod
    def patient(cls, cluster: Cluster) -> PoolSettings:
        """One actor, with the patience that a run has with its cluster."""
        return cls(
            heartbeat_s=cluster.heartbeat_s,
            unreachable_s=cluster.unreachable_s,
            backoff_s=cluster.backoff_s,
            backoff_most_s=cluster.backoff_most_s,
        )

    def actor(self) -> ActorOptions:
        """What one actor asks of Ray: threads for work, for `progress`, and one to spare."""
        sizes = {"CPU": self.cpus, "GPU": self.gpus}
        sizes |= {} if self.other is None else {self.other: 1.0}
        bundle = {key: size for key, size in sizes.items() if size}
        return ActorOptions(bundle, self.inflight + 2, self.environment, self.here)

    def limits(self) -> PoolLimits:
        """What its size may be."""
        least = self.size if self.least is None else self.least
        return PoolLimits(least, self.size, self.inflight, self.idle_s)


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


@dataclass(frozen=True)
class Resized:
    """A pool asked for more members, or gave some back."""

    pool: str
    before: int
    after: int
    reason: str


class PoolBroken(UserError):
    """No member gets anything done, whatever was tried: the last reason is in the message."""


class Pool:
    """Members of one actor class. Not for several threads: one driver submits and polls.

    yielding: another role waits for room, so engines end what they are at and are given back.
    runtime: what carries the actors.
    """

    def __init__(
        self,
        actor: type,
        args: Sequence[Any],
        settings: PoolSettings,
        *,
        name: str = "engine",
        say: Callable[[str], None] = _log.warning,
        clock: Callable[[], float] = time.monotonic,
        runtime: Callable[[type, Sequence[Any], ActorOptions], Actors] = RayActors,
    ) -> None:
        self.settings = settings
        self.name = name
        self.yielding = False
        self.actors = runtime(actor, args, settings.actor())
        self._say = say
        self._clock = clock
        self._members: list[Member] = []
        self._queue: list[Task] = []
        self._keys: set[str] = set()
        self._orders = 0
        self._ended = 0
        self._latest: Work | None = None
        self._results: list[Result] = []
        self._resized: list[Resized] = []
        self._runs_as: str | None = None
        self._waiting = WaitingNote()
        self._last = clock()

    # --- for the driver ------------------------------------------------------------------------

    def submit(self, work: Work) -> None:
        """Have this done. Submitting what is under way does nothing."""
        if work.key in self._keys:
            return
        self._keys.add(work.key)
        self._orders += 1
        self._latest = work
        heapq.heappush(self._queue, Task(self._orders, work, self._ended))

    def poll(self, timeout_s: float = 0.0) -> list[Result]:
        """What has ended, as soon as something has, after `timeout_s` at the latest.

        Raises:
            PoolBroken: when no member gets anything done.
            UserError: when `start` says what a person has to mend.
        """
        end = self._clock() + timeout_s
        while True:
            pause = min(max(end - self._clock(), 0.0), self.settings.heartbeat_s / 2)
            self.tend(0.0 if self._results else pause)
            if self._results or self._clock() >= end:
                ended, self._results = self._results, []
                self._keys -= {result.key for result in ended}
                return ended

    def tend(self, pause_s: float = 0.0) -> None:
        """Keep the members as they should be, for `pause_s` at most; what ends is kept for `poll`.

        Raises: as `poll`.
        """
        now = self._clock()
        # A driver that comes late (it was busy, or stopped) must not count as silence.
        passed = min(now - self._last, 2 * self.settings.heartbeat_s)
        self._last = now
        self._resize(passed)
        # One that was lost while there is nothing to do is replaced only where it is to be kept.
        wanted = bool(self._queue) or len(self._members) <= self.settings.limits().least
        for member in self._members:
            if member.state != "waiting":
                self._watch(member, now, passed)
            elif wanted and now >= member.due:
                self._start(member, now)
        self._tell_waiting(passed)
        self._dispatch(now)
        self._collect(pause_s)
        self._dispatch(self._clock())

    @property
    def outstanding(self) -> int:
        """Pieces of work without a result yet."""
        return len(self._keys)

    @property
    def waited_s(self) -> float:
        """How long work has waited for a first member to have room; 0 when it does not."""
        stuck = self._queue and not any(member.placed for member in self._members)
        return self._waiting.waited_s if stuck else 0.0

    def resized(self) -> list[Resized]:
        """The changes of size since the last call."""
        changes, self._resized = self._resized, []
        return changes

    def close(self) -> None:
        """End every member at once."""
        for member in self._members:
            self._drop(member)

    # --- how many ------------------------------------------------------------------------------

    def _resize(self, passed: float) -> None:
        """Have as many members as the work, the limits and other roles ask for."""
        idle = [member for member in self._members if not member.runs]
        for member in self._members:
            rests = not member.runs and not self._queue
            member.idle_s = member.idle_s + passed if rests else 0.0
        before, busy = len(self._members), len(self._members) - len(idle)
        left = len(self._queue) + sum(len(member.runs) for member in self._members)
        idle_s = tuple(member.idle_s for member in idle)
        size = pool_size(PoolLoad(left, busy, idle_s, self.yielding), self.settings.limits())
        names = {member.name for member in self._members}
        free = (name for i in range(size.members) if (name := f"{self.name}-{i}") not in names)
        self._members += [Member(next(free)) for _ in range(size.members - before)]
        # Who has no room yet goes first, then who has been idle longest.
        idle.sort(key=lambda member: (member.placed, -member.idle_s))
        for member in idle[: max(0, before - size.members)]:
            self._drop(member)
            self._members.remove(member)
        self._note(before, size)

    def _note(self, before: int, size: PoolSize) -> None:
        if size.members != before:
            self._resized.append(Resized(self.name, before, size.members, size.reason))

    # --- members -------------------------------------------------------------------------------

    def _start(self, member: Member, now: float) -> None:
        first = self._queue[0].work if self._queue else self._latest
        member.first = first
        member.launched = self.actors.launch()
        member.locate = self.actors.locate(member.launched)
        member.start = self.actors.call(member.launched, "start", first)
        member.state, member.doing = "starting", "starting"
        member.placed = self.settings.here
        member.count, member.still_s, member.asked = -1, 0.0, now

    def _watch(self, member: Member, now: float, passed: float) -> None:
        if member.unreachable:
            gone, late = (
                self.actors.gone(member.actor),
                now - member.asked > self.settings.unreachable_s,
            )
            if gone or late:
                self._lose(member, member.unreachable, node_gone=gone)
            return
        if member.beat is None and now - member.asked >= self.settings.heartbeat_s:
            member.beat, member.asked = self.actors.call(member.actor, "progress"), now
        if member.state == "starting":
            member.still_s += passed if member.placed else 0.0
            if member.still_s > self.settings.start_s:
                self._lose(member, f"no progress of its start for {self.settings.start_s:g} s")
        elif member.actor.node in self.actors.leaving() and not member.runs:
            self._say(f"{member.name} leaves its node, which is being drained")
            self._drop(member)
        else:
            member.still_s = member.still_s + passed if member.runs else 0.0
            if member.still_s > self.settings.hang_s:
                last = f", after {member.doing}" if member.doing else ""
                self._lose(member, f"no progress for {self.settings.hang_s:g} s{last}")

    def _tell_waiting(self, passed: float) -> None:
        """Say for what members wait, and for how long, at a growing interval."""
        waiting = [each for each in self._members if each.state == "starting" and not each.placed]
        if not waiting:
            self._waiting.over()
        elif self._waiting.passed(passed):
            for member in waiting:
                member.placed = self.actors.has_room(member.actor)
            count = sum(not member.placed for member in waiting)
            if count:
                self._say(
                    f"{self.name}: {count} of {len(self._members)} wait for room, for "
                    f"{self._waiting.waited_s:.0f} s now: each needs {self.settings.actor()} on "
                    f"one node; free are {self.actors.free()}"
                )

    def _lose(self, member: Member, reason: str, *, node_gone: bool = False) -> None:
        """Replace a member; its work is done again."""
        tasks = list(member.runs.values())
        self._drop(member)
        ids = ", ".join(str(task.work.key) for task in tasks)
        again = f"; to be done again: {ids}" if ids else ""
        if node_gone:
            self._say(f"{member.name} is gone with its node: {reason}. Another one starts{again}")
            for task in tasks:
                heapq.heappush(self._queue, task)
            return
        member.losses += 1
        pause = self._pause(member.losses)
        member.due = self._clock() + pause
        self._say(f"{member.name} lost: {reason}. A new one starts in {pause:g} s{again}")
        for task in tasks:
            task.deaths += 1
            task.killed += len(tasks) == 1
            self._again(task, Failure("infrastructure", reason), member)
        self._check_broken(tasks, reason)

    def _check_broken(self, tasks: Sequence[Task], reason: str) -> None:
        """Break when nobody gets anything done. While others got something done, it is not the
        engines that are broken but the work under which they die; and without work nothing is."""
        attempts = self.settings.attempts
        tried = [each for each in self._members if each.losses or each.placed]
        culprit = any(task.ended < self._ended for task in tasks)
        if self._keys and not culprit and all(member.losses >= attempts for member in tried):
            at = ", ".join(str(task.work.key) for task in tasks)
            raise PoolBroken(
                f"no {self.name} gets anything done: each of {len(tried)} was lost {attempts} "
                f"times or more with nothing done in between. The last time{at and f' (at {at})'}: "
                f"{reason}"
            )

    def _drop(self, member: Member) -> None:
        if member.launched is not None:
            self.actors.end(member.launched)
        member.state, member.doing, member.unreachable = "waiting", "", ""
        member.placed = False
        member.launched = member.locate = member.start = member.beat = member.first = None
        member.runs = {}

    def _pause(self, losses: int) -> float:
        return min(self.settings.backoff_s * 2.0 ** (losses - 1), self.settings.backoff_most_s)

    # --- work ----------------------------------------------------------------------------------

    def _again(self, task: Task, failure: Failure, member: Member) -> None:
        """Put work back into the queue, or give it up after too many engines."""
        task.losses += 1
        if task.losses >= self.settings.attempts:
            self._end(task, None, failure, member)
        else:
            heapq.heappush(self._queue, task)

    def _end(self, task: Task, value: Any, failure: Failure | None, member: Member) -> None:
        attempts = task.losses + (failure is None or failure.kind != "infrastructure")
        seconds = self._clock() - task.begun if task.begun else 0.0
        self._results.append(
            Result(task.work.key, value, failure, attempts, seconds, member.name, task.killed)
        )

    def _dispatch(self, now: float) -> None:
        """Hand out what can be handed out, in order."""
        if self.yielding or not self._queue:
            return
        leaving = self.actors.leaving()
        ready = [
            each
            for each in self._members
            if each.state == "ready" and not each.unreachable and each.actor.node not in leaving
        ]
        shared = [each for each in ready if not any(t.alone for t in each.runs.values())]
        # Of these one after the other runs empty for work that is to be tried alone.
        alone_left = max(1, len(ready) // 2) - (len(ready) - len(shared))
        resting = []
        while self._queue:
            task = heapq.heappop(self._queue)
            member = None
            if task.not_before <= now and (not task.alone or alone_left > 0):
                member = min(shared, key=lambda each: len(each.runs), default=None)
            if member is not None and task.alone:
                shared.remove(member)
                alone_left -= 1
            most = 0 if task.alone else self.settings.inflight - 1
            if member is None or len(member.runs) > most:
                resting.append(task)
                continue
            task.begun = now
            member.still_s = 0.0 if not member.runs else member.still_s
            member.runs[self.actors.call(member.actor, "run", task.work)] = task
        for task in resting:
            heapq.heappush(self._queue, task)

    # --- answers -------------------------------------------------------------------------------

    def _collect(self, timeout_s: float) -> None:
        callers = {ref: member for member in self._members for ref in member.calls}
        for ref in self.actors.ended(list(callers), timeout_s):
            self._take(callers[ref], ref)

    def _take(self, member: Member, ref: Any) -> None:
        if ref not in member.calls:
            return  # the member was lost while another of its calls was looked at
        try:
            answer = self.actors.value(member.actor, ref)
        except ActorLost as lost:
            if lost.unreachable and not lost.node_gone:
                member.unreachable, member.asked = lost.reason, self._clock()
            else:
                self._lose(member, lost.reason, node_gone=lost.node_gone)
            return
        if ref == member.locate:
            member.actor.node, member.locate, member.placed = answer, None, True
        elif ref == member.beat:
            member.beat, member.placed = None, True
            if answer[0] != member.count:
                member.still_s = 0.0
            member.count, member.doing = answer
        elif ref == member.start:
            self._started(member, answer)
        else:
            self._finished(member, member.runs.pop(ref), answer)

    def _started(self, member: Member, result: CallResult) -> None:
        member.start = None
        failure = result.failure
        if failure is None:
            member.state, member.doing, member.still_s = "ready", "", 0.0
            if result.value is not None and result.value != self._runs_as:
                self._runs_as = result.value
                self._say(f"{member.name} runs as {self._runs_as}")
        elif failure.kind == "user":
            raise UserError(failure.reason)
        elif failure.kind == "infrastructure" or not self._end_first(member, failure):
            self._lose(member, failure.reason)

    def _end_first(self, member: Member, failure: Failure) -> bool:
        """Let the work that a member was started for end as its start did (what it reads is gone):
        whoever submitted it may mend that. False: it is not in the queue any more."""
        task = next((each for each in self._queue if each.work is member.first), None)
        if task is None:
            return False
        self._queue.remove(task)
        heapq.heapify(self._queue)
        self._end(task, None, failure, member)
        self._drop(member)
        return True

    def _finished(self, member: Member, task: Task, result: CallResult) -> None:
        member.losses, member.still_s = 0, 0.0
        failure = result.failure
        if failure is None or failure.kind != "infrastructure":
            self._ended += 1
            self._end(task, result.value, failure, member)
            return
        task.not_before = self._clock() + self._pause(task.losses + 1)
        self._say(f"{member.name}: {task.work.key} failed and is done again: {failure.reason}")
        self._again(task, failure, member)


class PoolLike(Protocol):
    """What the driver's workers use of a `Pool`."""

    def submit(self, work: Any) -> None: ...
    def poll(self, timeout_s: float = 0.0) -> list[Result]: ...
