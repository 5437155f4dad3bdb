"""Looks at the nodes of a local cluster while a job runs on it, and kills two of them.

What always holds: a node is killed while what it holds is at work: an engine's in the middle of a
shard, the learner's after a checkpoint inside a job. What was seen is kept as it was.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import psutil

from cluster.s3_proxy import Seen, Verdict
from jobs.chaos.watch import Watch

LOOK_S = 0.5

ENGINE, RANK = "ray::GeneratorActor", "ray::RayTrainWorker"
"""What processes of the roles show as their command line."""

BUSY_S = 0.05
"""Processor time between two looks from which on an engine is at work."""

Events = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Look:
    """What was seen at one time. at_s: since the job was submitted. nodes: worker nodes alive.
    engines, ranks: of them, those that hold one. events: in the ledger."""

    at_s: float
    nodes: int
    engines: int
    ranks: int
    events: int


@dataclass(frozen=True)
class NodeKill:
    """A node that was killed. role: of what it held. stage: what the run was at."""

    role: str
    node: str
    at_s: float
    stage: str


class Nodes(Protocol):
    """What is used of a `LocalCluster`."""

    @property
    def nodes(self) -> dict[str, int]: ...

    def kill_node(self, name: str) -> None: ...


@dataclass
class Witness:
    """Follows one job. events: what its ledger says so far."""

    cluster: Nodes
    events: Callable[[], Events]
    looks: list[Look] = field(default_factory=list)
    kills: list[NodeKill] = field(default_factory=list)
    wanted: list[str] = field(default_factory=lambda: [ENGINE, RANK])
    _began: float = field(default_factory=time.monotonic)
    _used_s: dict[int, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def follow(self) -> threading.Thread:
        """Look on a thread of its own until `stop`."""
        thread = threading.Thread(target=self._follow, name="witness", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """The job is over."""
        self._stop.set()

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look(self.events())

    def look(self, events: Events) -> None:
        """Look once, and kill where it is time to."""
        roles = {name: self._processes(pid) for name, pid in self.cluster.nodes.items()}
        held = {
            role: [name for name, processes in roles.items() if role in processes]
            for role in (ENGINE, RANK)
        }
        now = round(time.monotonic() - self._began, 1)
        look = Look(now, len(roles), len(held[ENGINE]), len(held[RANK]), len(events))
        if not self.looks or (look.nodes, look.engines, look.ranks) != self._last():
            self.looks.append(look)
        busy = [name for name in held[ENGINE] if roles[name][ENGINE]]
        if ENGINE in self.wanted and busy and sampling(events):
            self._kill(ENGINE, busy[0], events)
        elif RANK in self.wanted and held[RANK] and training(events):
            self._kill(RANK, held[RANK][0], events)

    def _last(self) -> tuple[int, int, int]:
        last = self.looks[-1]
        return last.nodes, last.engines, last.ranks

    def _kill(self, role: str, node: str, events: Events) -> None:
        self.cluster.kill_node(node)
        self.wanted.remove(role)
        at_s = round(time.monotonic() - self._began, 1)
        self.kills.append(NodeKill(role, node, at_s, events[-1]["stage"]))

    def _processes(self, pid: int) -> dict[str, bool]:
        """The roles on a node, and whether each has used the processor since the last look."""
        found: dict[str, bool] = {}
        try:
            below = psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return {}
        for process in below:
            try:
                title = (process.cmdline() or [""])[0]
                times = process.cpu_times()
            except psutil.Error:
                continue
            role = next((one for one in (ENGINE, RANK) if title.startswith(one)), None)
            if role is not None:
                used = times.user + times.system
                before = self._used_s.get(process.pid, used)
                found[role] = found.get(role, False) or used - before >= BUSY_S
                self._used_s[process.pid] = used
        return found


class LedgerSeen:
    """The proxy's hook for one run: what its ledger says, as it is written, and which accepted
    shards are made again (`jobs.chaos.watch`). prefix: of its store, "bucket/name"."""

    def __init__(self, prefix: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._watch = Watch([], prefix, lambda kill: None)
        self._ledger = f"{prefix}/runs/"

    @property
    def doubled(self) -> list[str]:
        """Keys of shards that were asked for again after they were accepted."""
        return sorted(set(self._watch.again))

    def __call__(self, seen: Seen) -> Verdict:
        written = seen.method == "PUT" and seen.moment == "after" and seen.status == 200
        if written and seen.path.startswith(self._ledger) and "/ledger/" in seen.path:
            self.events = [*self.events, *json.loads(seen.body)["events"]]
        return self._watch(seen)


def sampling(events: Events) -> bool:
    """Whether the run samples for an iteration, and has not accepted all of it."""
    accepted = [one for one in events if one["type"] == "shard_accepted"]
    closed = [one for one in events if one["type"] == "sampling_closed"]
    purposes = {one["purpose"] for one in accepted} - {one["purpose"] for one in closed}
    return any(purpose.startswith("evolve/") for purpose in purposes)


def training(events: Events) -> bool:
    """Whether the run is in the middle of a job of the evolution: behind a checkpoint in it."""
    kinds = ("checkpoint_saved", "job_done")
    last = next((one for one in reversed(events) if one["type"] in kinds), None)
    return last is not None and last["type"] == kinds[0] and last["job"].startswith("evolve")


def summary_of(witness: Witness) -> dict[str, Any]:
    """What the nodes did, as the result has it.

    shrank, grew_again: whether there were fewer nodes while ranks were there and no engine, and
    then as many as before or more with engines.
    """
    looks = witness.looks
    most = max((look.nodes for look in looks), default=0)
    first_most = next((i for i, look in enumerate(looks) if look.nodes == most), 0)
    low = next(
        (i for i, look in enumerate(looks[first_most:], first_most)
         if look.ranks and not look.engines and look.nodes < most),
        None,
    )  # fmt: skip
    again = low is not None and any(look.engines and look.nodes > looks[low].nodes
                                    for look in looks[low:])  # fmt: skip
    return {
        "nodes_first": looks[0].nodes if looks else 0,
        "nodes_max": most,
        "shrank": low is not None,
        "grew_again": again,
        "kills": [asdict(one) for one in witness.kills],
        "learner_lost": sum(one.role == RANK for one in witness.kills),
        "looks": [asdict(one) for one in looks],
    }
