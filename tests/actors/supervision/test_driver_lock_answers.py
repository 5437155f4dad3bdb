"""What a driver makes of what its Ray cluster says, or does not say, of who has its run."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError

from actors.supervision.driver_lock import DriverLock
from pipeline.run.lease import LeaseHeld
from pipeline.run.ledger import LedgerFenced

HERE = "ab" * 28  # a node's id


@dataclass
class FakeActor:
    """Of which only the name's holder and its answer matter."""

    said: str
    _actor_id: int
    alive: bool = True

    @property
    def who(self) -> Any:
        return SimpleNamespace(remote=lambda: self)


@dataclass
class FakeCluster:
    """Names of living actors; `silent` is raised instead of any answer."""

    names: dict[str, FakeActor] = field(default_factory=dict)
    made: list[dict[str, Any]] = field(default_factory=list)
    silent: Exception | None = None

    def remote(self, _: type) -> Any:
        def options(**asked: Any) -> Any:
            def make(who: str) -> FakeActor:
                if asked["name"] in self.names:
                    raise ValueError("the name is taken")
                self.made.append(asked)
                return self.names.setdefault(asked["name"], FakeActor(who, len(self.made)))

            return SimpleNamespace(remote=make)

        return SimpleNamespace(options=options)

    def get(self, actor: FakeActor, timeout: float) -> str:
        if not actor.alive:
            raise ActorDiedError
        if self.silent is not None:
            raise self.silent
        return actor.said

    def get_actor(self, name: str, namespace: str) -> FakeActor:
        if name not in self.names:
            raise ValueError("no such actor")
        return self.names[name]

    def kill(self, actor: FakeActor) -> None:
        actor.alive = False
        self.names = {name: one for name, one in self.names.items() if one is not actor}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    for name in ("remote", "get", "get_actor", "kill"):
        monkeypatch.setattr(ray, name, getattr(made, name))
    here = SimpleNamespace(get_node_id=lambda: HERE)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
    return made


def lock(said: list[str] | None = None) -> DriverLock:
    """A driver's claim to the run, which looks again at once; said: what it reports."""
    report = [] if said is None else said
    return DriverLock("s3://b/x", "run", say=report.append, pause_s=0.001)


@pytest.mark.parametrize(
    "silence", [GetTimeoutError("nothing in 60 s"), ActorUnavailableError("not now", b"0" * 16)]
)
def test_silence_ends_nobody_and_is_said_once(cluster: FakeCluster, silence: Exception) -> None:
    said: list[str] = []
    mine, other = lock(said), lock()
    cluster.silent = silence
    mine.take()
    mine.check()
    mine.check()
    (line,) = said
    assert "asks again" in line
    with pytest.raises(LeaseHeld, match="a driver that does not answer"):
        other.take()
    cluster.silent = None
    mine.check()
    other.take(take_over=True)
    with pytest.raises(LedgerFenced, match=r"\(process \d+ on .*\) has taken it over"):
        mine.check()


def test_an_actor_that_was_lost_is_no_take_over(cluster: FakeCluster) -> None:
    said: list[str] = []
    mine, other = lock(said), lock()
    mine.take()
    (actor,) = cluster.names.values()
    cluster.kill(actor)
    mine.check()
    assert "was lost" in said[0]
    with pytest.raises(LeaseHeld, match=r"driven by process \d+"):
        other.take()
    mine.check()
    assert len(said) == 1


def test_a_dead_actor_whose_name_is_still_there_is_nobody(cluster: FakeCluster) -> None:
    mine = lock()
    mine.take()
    (name, actor), *_ = cluster.names.items()
    actor.alive = False
    looks: list[int] = []

    def get_actor(asked: str, namespace: str) -> FakeActor:
        looks.append(1)
        if len(looks) == 3:  # now its name is given back
            cluster.names.clear()
        return FakeCluster.get_actor(cluster, asked, namespace)

    ray.get_actor = get_actor
    mine.check()
    assert cluster.names[name].alive
    mine.check()


def test_the_actor_lives_where_its_driver_does(cluster: FakeCluster) -> None:
    lock().take()
    where = cluster.made[0]["scheduling_strategy"]
    assert (where.node_id, where.soft) == (HERE, False)
