"""What tests of the driver share: a store that dies at a write, and runs over scripted workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import Config
from pipeline.driver.context import RunContext
from pipeline.driver.driver import drive
from pipeline.phases.order import PHASES, Phase
from pipeline.refs import PolicyRef
from pipeline.run.events.wire import replay
from pipeline.run.ledger import Ledger
from pipeline.run.state import State
from pipeline.simulation.fleet import ScriptedFleet
from pipeline.simulation.grader import ScriptedGrader
from pipeline.simulation.learner import ScriptedLearner
from pipeline.simulation.scorer import ScriptedScorer
from pipeline.simulation.workers import scripted_workers
from pipeline.storage.backend import MemoryBackend
from pipeline.storage.store import Store
from pipeline.storage.trees import fetch_tree
from tests.support.scripted import Clock, Crash, Quiet, make_config, make_program, with_base


class CrashingBackend(MemoryBackend):
    """Dies before or after the write number `at`."""

    def __init__(self) -> None:
        super().__init__()
        self.at = -1
        self.after = False
        self.writes = 0

    def _dying(self, action: Any, *args: Any) -> Any:
        self.writes += 1
        due = self.writes == self.at
        if due and not self.after:
            raise Crash
        result = action(*args)
        if due:
            raise Crash
        return result

    def write(self, path: str, data: bytes) -> None:
        self._dying(super().write, path, data)

    def create(self, path: str, data: bytes) -> bool:
        return bool(self._dying(super().create, path, data))

    def delete(self, path: str) -> None:
        self._dying(super().delete, path)


class Bench:
    """A store and a ledger that outlive drivers, and drivers over them.

    current: the driver that was made last; it has not begun. fleet and so on: its workers.
    """

    fleet: ScriptedFleet
    grader: ScriptedGrader
    learner: ScriptedLearner
    scorer: ScriptedScorer

    def __init__(self, folder: Path, config: Config | None = None, **options: Any) -> None:
        self.config = with_base(config or make_config(), folder / "base", **options)
        self.program = make_program(self.config)
        self.backend = CrashingBackend()
        self.clock = Clock()
        self.watch = Quiet()
        self.context()

    @property
    def store(self) -> Store:
        return Store(self.backend, sleep=self.clock.sleep)

    def context(
        self, seed: int = 0, twice: float = 0.0, own_store: Store | None = None
    ) -> RunContext:
        """A driver's, with new workers. own_store: what the driver has in place of their store."""
        scripted = scripted_workers(self.store, self.program, seed, twice)
        store = own_store or self.store
        self.fleet, self.grader = scripted.fleet, scripted.grader
        self.learner, self.scorer = scripted.learner, scripted.scorer
        self.current = RunContext(
            self.program,
            store,
            Ledger(store, self.program.config.run.name),
            scripted.workers,
            self.watch,
            clock=self.clock,
            sleep=self.clock.sleep,
        )
        return self.current

    def drive(self) -> State:
        """The life of the driver whose workers these are."""
        return drive(self.current)

    def run(self, seed: int = 0, twice: float = 0.0, phases: Sequence[Phase] = PHASES) -> State:
        """The life of another driver, with new workers."""
        return drive(self.context(seed, twice), phases=phases)

    @property
    def events(self) -> list[Mapping[str, Any]]:
        return list(Ledger(self.store, self.program.config.run.name).replay())

    def of_type(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


def result(bench: Bench) -> dict[str, Any]:
    """What must not depend on crashes, order or duplicates."""
    return outcome(bench.events)


def outcome(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What must not depend on what happened to a run."""
    state = replay(events)
    explored = {"temperatures": state.temperatures, "dynamics": state.dynamics}
    return {name: of for name, of in explored.items() if of} | {
        "policies": {name: ref.version for name, ref in state.policies.items()},
        "jobs": {name: (job.key, job.steps) for name, job in state.jobs.items()},
        "evaluations": state.evaluations,
        "finished": state.finished,
        "selected": sorted(
            {
                (event["purpose"], event["index"], event["selected"])
                for event in events
                if event["type"] == "shard_graded" and event["selected"]
            }
        ),
    }


def card_in(store: Store, prm: PolicyRef, folder: Path) -> str:
    """The text of the card in a published PRM."""
    fetch_tree(store, prm.path, folder)
    return (folder / "prm_card.json").read_text()
