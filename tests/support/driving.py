"""What tests of the driver share: a store that dies at a write, drivers over a scripted world."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.driver.driver import Driver
from pipeline.run.events.wire import replay
from pipeline.run.ledger import Ledger
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from tests.support.scripted import Clock, Crash, Quiet, make_config, make_program, with_base
from tests.support.scripted_world import ScriptedFleet, ScriptedGrader, ScriptedLearner, make_world


class CrashingBackend(MemoryBackend):
    """Dies before or after the write number `at`."""

    def __init__(self) -> None:
        super().__init__()
        self.at = -1
        self.after = False
        self.writes = 0

    def _count(self) -> bool:
        self.writes += 1
        return self.writes == self.at

    def write(self, path: str, data: bytes) -> None:
        due = self._count()
        if due and not self.after:
            raise Crash
        super().write(path, data)
        if due:
            raise Crash

    def create(self, path: str, data: bytes) -> bool:
        due = self._count()
        if due and not self.after:
            raise Crash
        won = super().create(path, data)
        if due:
            raise Crash
        return won

    def delete(self, path: str) -> None:
        due = self._count()
        if due and not self.after:
            raise Crash
        super().delete(path)
        if due:
            raise Crash


class Bench:
    """A store and a ledger that outlive drivers, and drivers over them."""

    def __init__(self, folder: Path, config: Config | None = None, **options: Any) -> None:
        self.config = with_base(config or make_config(), folder / "base", **options)
        self.program = make_program(self.config)
        self.backend = CrashingBackend()
        self.clock = Clock()
        self.watch = Quiet()
        self.fleet: ScriptedFleet
        self.grader: ScriptedGrader
        self.learner: ScriptedLearner

    @property
    def store(self) -> Store:
        return Store(self.backend, sleep=self.clock.sleep)

    def driver(self, seed: int = 0, twice: float = 0.0) -> Driver:
        store = self.store
        world, self.fleet, self.learner = make_world(store, self.program, seed, twice)
        assert isinstance(world.grader, ScriptedGrader)
        self.grader = world.grader
        return Driver(
            self.program,
            store,
            Ledger(store, self.program.config.run.name),
            world,
            self.watch,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    @property
    def events(self) -> list[Mapping[str, Any]]:
        return list(Ledger(self.store, self.program.config.run.name).replay())

    def of_type(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


def result(bench: Bench) -> dict[str, Any]:
    """What must not depend on crashes, order or duplicates."""
    state = replay(bench.events)
    return {
        "policies": {name: ref.version for name, ref in state.policies.items()},
        "jobs": {name: (job.key, job.steps) for name, job in state.jobs.items()},
        "evaluations": state.evaluations,
        "finished": state.finished,
        "selected": sorted(
            (event["purpose"], event["index"], event["selected"])
            for event in bench.of_type("shard_graded")
            if event["selected"]
        ),
    }
