"""The learner's room: reserved by the driver's thread, told, and given up when it is its turn."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from actors.supervision.failures import WorkFailed
from actors.training.room import LearnerRoom
from actors.training.source import Source
from pipeline.training.settings import LearnSettings

SETTINGS = LearnSettings(
    learning_rate=1e-3, batch_size=4, precision="float32", ranks=2, cpus_per_rank=2.0
)


class Cluster:
    """Reservations, and whether there is room for them."""

    def __init__(self) -> None:
        self.room = False
        self.held: list[Any] = []
        self.now = 0.0
        self.said: list[str] = []
        self.times_let_go = 0
        self.place = LearnerRoom(
            lambda: "3 of 4 CPUs",
            self.said.append,
            reserve=self._reserve,
            clock=lambda: self.now,
        )
        self.place.let_go = self._let_go

    def _let_go(self) -> None:
        self.times_let_go += 1

    def _reserve(self, bundles: list[dict[str, float]]) -> Any:
        cluster = self

        class Reservation:
            def ready(self) -> bool:
                return cluster.room

            def release(self) -> None:
                cluster.held.remove(bundles)

        self.held.append(bundles)
        return Reservation()

    def tend(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.now += 1.0
            self.place.tend()


def learner(place: LearnerRoom, log: list[str]) -> tuple[threading.Thread, threading.Event]:
    """A thread that starts a group once it has room; the group is up when the event is set."""
    up = threading.Event()

    def start(settings: LearnSettings, source: Source) -> None:
        log.append(f"starts {settings.ranks} ranks on {source.policy}")
        up.wait()

    def run() -> None:
        try:
            place.around(start)(SETTINGS, Source("policy"))
            log.append("up")
        except WorkFailed as failed:
            log.append(failed.failure.kind)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, up


def until(condition: Callable[[], Any]) -> None:
    for _ in range(60_000):
        if condition():
            return
        threading.Event().wait(0.001)
    raise AssertionError("it did not come true")


def test_ranks_wait_for_room_and_say_so() -> None:
    cluster, log = Cluster(), list[str]()
    thread, up = learner(cluster.place, log)
    until(lambda: cluster.place._wanted is not None)
    cluster.tend(100)
    assert cluster.held == [[{"CPU": 2.0}, {"CPU": 2.0}]]
    assert cluster.place.waited_s == 100.0
    assert 3 <= len(cluster.said) <= 5
    assert "for 10 s now: 2 ranks of 2 CPU each; free are 3 of 4 CPUs" in cluster.said[0]
    assert not log
    cluster.room = True
    cluster.tend(1)
    until(lambda: log)
    assert not cluster.held
    assert cluster.place.waited_s > 0  # its turn lasts until the ranks are up
    up.set()
    thread.join(60)
    assert log == ["starts 2 ranks on policy", "up"]
    assert cluster.place.waited_s == 0.0


def test_at_another_roles_turn_it_asks_for_nothing_and_lets_go_of_what_is_idle() -> None:
    cluster, log = Cluster(), list[str]()
    thread, up = learner(cluster.place, log)
    until(lambda: cluster.place._wanted is not None)
    cluster.tend(5)
    cluster.place.yielding = True
    cluster.place.yielding = True
    cluster.tend(5)
    assert (cluster.held, cluster.times_let_go, cluster.place.waited_s) == ([], 1, 0.0)
    cluster.place.yielding = False
    cluster.room = True
    cluster.tend(1)
    up.set()
    thread.join(60)
    assert log[-1] == "up"


@pytest.mark.parametrize("reserved", [False, True])
def test_a_run_that_ends_ends_the_wait(reserved: bool) -> None:
    cluster, log = Cluster(), list[str]()
    thread, _ = learner(cluster.place, log)
    until(lambda: cluster.place._wanted is not None)
    cluster.tend(2 * reserved)
    cluster.place.close()
    thread.join(60)
    assert log == ["infrastructure"]
    assert not cluster.held
