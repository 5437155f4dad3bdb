"""The ledger under drivers that die, sleep, wake and race: nothing is lost, nothing doubled."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.run.ledger import Ledger, LedgerClosed, LedgerFenced
from pipeline.storage.backend import Entry, MemoryBackend
from pipeline.storage.store import Store
from tests.support.numbered_ledger import event, numbers, written
from tests.support.scripted_store import Crash, Fault, ScriptedBackend, patient


@pytest.fixture
def store() -> Store:
    return Store(MemoryBackend(), say=lambda line: None)


# --- crashes --------------------------------------------------------------------------------------

FAULTS: list[Fault | None] = [
    None,
    None,
    None,
    "crash_before",
    "crash_after",
    "lose_request",
    "lose_answer",
]


def drive(backend: ScriptedBackend, goal: int, acknowledged: list[int]) -> None:
    """A driver: replay, then append what is not there yet, in groups of 1 to 3."""
    ledger = Ledger(patient(backend), "run", say=lambda line: None)
    state, events = ledger.resume()
    done = (0 if state is None else state["done"]) + len(numbers(events))
    assert done >= len(acknowledged), "an acknowledged append is lost"
    while done < goal:
        group = list(range(done, min(goal, done + 1 + done % 3)))
        ledger.append([event(number) for number in group])
        acknowledged[:] = range(done + len(group))
        done += len(group)
        if done % 2:
            ledger.snapshot({"done": done})


@given(
    faults=st.lists(st.sampled_from(FAULTS), max_size=60),
    goal=st.integers(1, 12),
    exclusive=st.booleans(),
)
def test_every_acknowledged_append_is_there_once_whatever_dies(
    faults: list[Fault | None], goal: int, exclusive: bool
) -> None:
    inner = MemoryBackend()
    script = iter(faults)
    acknowledged: list[int] = []
    while True:
        backend = ScriptedBackend(inner, lambda *_: next(script, None))
        backend.exclusive = exclusive
        try:
            drive(backend, goal, acknowledged)
            break
        except Crash:
            assert (
                numbers(Ledger(Store(inner), "run").replay())[: len(acknowledged)] == acknowledged
            )
    assert numbers(Ledger(Store(inner), "run").replay()) == list(range(goal))


# --- two drivers ----------------------------------------------------------------------------------


def test_the_first_driver_is_fenced_at_its_next_write(store: Store) -> None:
    first = written(store, [[0]], nonce="first")
    second = Ledger(store, "run", nonce="second")
    seen = numbers(second.resume()[1])
    second.claim({"type": "driver_started", "number": 100}, lambda item: seen.append(-1))
    with pytest.raises(LedgerFenced, match="another driver has taken the run over"):
        first.append([event(1)])
    with pytest.raises(LedgerClosed):
        first.append([event(1)])
    second.append([event(1)])
    assert numbers(Ledger(store, "run").replay()) == [0, 100, 1]


def test_a_claim_applies_what_the_first_driver_still_wrote(store: Store) -> None:
    first = written(store, [[0]], nonce="first")
    second = Ledger(store, "run", nonce="second")
    seen = numbers(second.resume()[1])
    first.append([event(1), event(2)])
    first.append([event(3)])
    second.claim(event(100), lambda item: seen.append(item["number"]))
    assert seen == [0, 1, 2, 3]
    assert numbers(Ledger(store, "run").replay()) == [0, 1, 2, 3, 100]


def test_equal_events_of_two_drivers_are_two_writes(store: Store) -> None:
    first, second = Ledger(store, "run"), Ledger(store, "run")
    assert second.position == -1
    assert first.append([event(0)]) == 0
    with pytest.raises(LedgerFenced):
        second.append([event(0)])
    assert numbers(Ledger(store, "run").replay()) == [0]


def test_a_guard_runs_where_the_store_cannot_refuse(store: Store) -> None:
    def fenced() -> None:
        raise LedgerFenced("the lease is lost")

    backend = ScriptedBackend(store.backend)
    assert Ledger(Store(backend), "run", guard=fenced).append([event(0)]) == 0
    backend.exclusive = False
    ledger = Ledger(Store(backend), "run", guard=fenced)
    with pytest.raises(LedgerFenced, match="lease"):
        ledger.append([event(1)])
    with pytest.raises(LedgerFenced, match="lease"):
        Ledger(Store(backend), "run", guard=fenced).claim(event(1), lambda item: None)
    assert numbers(Ledger(store, "run").replay()) == [0]


class Watched(MemoryBackend):
    """A store in which a driver goes on writing whenever a reader lists."""

    def __init__(self) -> None:
        super().__init__()
        self.writer: Ledger | None = None

    def list(self, folder: str) -> list[Entry]:
        found = super().list(folder)
        if self.writer is not None:
            writer, self.writer = self.writer, None
            done = writer.append([event(0)]) + 1
            writer.snapshot({"done": done})
            self.writer = writer
        return found


def test_reading_while_the_driver_writes_sees_no_damage() -> None:
    backend = Watched()
    writer = Ledger(Store(backend), "run")
    writer.append([event(0)])
    writer.snapshot({"done": 1})
    backend.writer = writer
    said: list[str] = []
    for _ in range(3):
        assert len(numbers(Ledger(Store(backend), "run", say=said.append).replay())) >= 2
        state, events = Ledger(Store(backend), "run", say=said.append).resume()
        assert state is not None
        assert state["done"] + len(numbers(events)) >= 2
    assert said == []


class Drivers(RuleBasedStateMachine):
    """Drivers that start, take over, write, sleep and wake, on a store that loses answers."""

    @initialize()
    def start(self) -> None:
        self.inner = MemoryBackend()
        self.fault: Fault | None = None
        self.drivers: list[Ledger] = []
        self.alive: set[int] = set()
        self.acknowledged: list[int] = []
        self.next_number = 0

    def _store(self) -> Store:
        def script(operation: str, _path: str, _number: int) -> Fault | None:
            fault, self.fault = (self.fault, None) if operation == "create" else (None, self.fault)
            return fault

        return patient(ScriptedBackend(self.inner, script))

    def _number(self) -> int:
        self.next_number += 1
        return self.next_number

    @rule(fault=st.sampled_from(["lose_request", "lose_answer"]))
    def next_create_has_bad_luck(self, fault: Fault) -> None:
        self.fault = fault

    @rule()
    def take_over(self) -> None:
        ledger = Ledger(self._store(), "run", say=lambda line: None)
        seen = numbers(ledger.resume()[1])
        assert seen[: len(self.acknowledged)] == self.acknowledged
        number = self._number()
        ledger.claim(event(number), lambda item: None)
        self.acknowledged.append(number)
        self.drivers.append(ledger)
        self.alive.add(len(self.drivers) - 1)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), size=st.integers(1, 3))
    def write(self, data: st.DataObject, size: int) -> None:
        driver = data.draw(st.sampled_from(sorted(self.alive)))
        group = [self._number() for _ in range(size)]
        newest = driver == len(self.drivers) - 1
        try:
            self.drivers[driver].append([event(number) for number in group])
        except LedgerFenced:
            assert not newest, "the driver that claimed last is never fenced"
            self.alive.remove(driver)
        else:
            assert newest, "a driver that was taken over never writes again"
            self.acknowledged += group

    @invariant()
    def the_ledger_holds_what_was_acknowledged_once_in_order(self) -> None:
        assert numbers(Ledger(Store(self.inner), "run").replay()) == self.acknowledged


TestDrivers = Drivers.TestCase

TestDrivers.settings = settings(max_examples=40, stateful_step_count=20)
