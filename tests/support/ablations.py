"""Small recipes of tables over the scripted main job, and what begins their runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from jobs.run import evolve
from jobs.runtime.prepare import versions
from jobs.runtime.recipes import load_recipe
from pipeline.config.fields import to_dict
from pipeline.run.spec import RunSpec
from pipeline.simulation.workers import ScriptedWorkers, scripted_workers
from pipeline.stages.workers import Workers
from pipeline.storage.store import Store
from tests.support.jobs import SCRIPTED, job_config

TABLES: dict[str, Any] = {
    "1": {
        "title": "methods",
        "baseline": "all",
        "rows": {
            "warmup": {"policy": "warmup"},
            "all": {"paper": [43.1, 57.2]},
            "again": {
                "set": {"evolve.method": "rest_em", "evolve.interval": 1, "evolve.iterations": 1}
            },
        },
    },
    "2": {
        "title": "selection",
        "baseline": "random-1",
        "rows": {
            "every": {},
            "random-1": {"set": {"select.rule": "random_k", "select.k": 1}},
        },
    },
}


def write_ablation(folder: Path, tables: dict[str, Any] = TABLES, **changes: Any) -> Path:
    """A recipe of two tables that share a run, over two seeds; its base lies beside it."""
    config = job_config(
        folder,
        warmup={"epochs": 1},
        evolve={"iterations": 2, "interval": 1 / 3, "control": False, "final": "last"},
    )
    plain = to_dict(config)
    plain["run"]["out"] = str(folder / "runs")
    base = folder / "base.yaml"
    base.write_text(yaml.safe_dump(plain))
    settings = {"select.rule": "all_correct", "evaluate.samples": 0}
    recipe = {"base": str(base), "seeds": [5, 6], "set": settings, "tables": tables, **changes}
    path = folder / "tables.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


class Interrupting:
    """A learner that is interrupted at its n-th look, which no later one is."""

    def __init__(self, learner: Any, looks: list[int]) -> None:
        self._learner, self._looks = learner, looks

    def submit(self, *asked: Any) -> None:
        self._learner.submit(*asked)

    def poll(self) -> Sequence[Any]:
        self._looks[0] -= 1
        if self._looks[0] == 0:
            raise KeyboardInterrupt
        return list(self._learner.poll())


class Ended:
    """A run that was over when it was begun."""

    def __init__(self, code: int = 0) -> None:
        self._code = code

    def code(self) -> int | None:
        return self._code

    def stop(self) -> None:
        pass


class InProcess:
    """Begins a run and does all of it at once, over scripted workers.

    interrupt_at: the look at a learner, of all runs together, at which it is interrupted; 0: never.
    begun: the recipe of each run. workers: those of each, by the run's name.
    """

    def __init__(self, interrupt_at: int = 0) -> None:
        self._looks = [interrupt_at]
        self.begun: list[Path] = []
        self.workers: list[tuple[str, ScriptedWorkers]] = []

    def __call__(self, recipe: Path, log: Path) -> Ended:
        self.begun.append(recipe)
        log.write_text("scripted\n")
        evolve(load_recipe(recipe), parts=replace(SCRIPTED, workers=self._workers))
        return Ended()

    @contextmanager
    def _workers(self, program: RunSpec, store: Store, *_: Any) -> Iterator[Workers]:
        scripted = scripted_workers(store, program)
        self.workers.append((program.config.run.name, scripted))
        one = scripted.workers
        learner: Any = Interrupting(scripted.learner, self._looks)
        yield Workers(one.fleet, one.grader, learner, one.stage, one.scorer, versions=versions())


class Failing:
    """A run that ends with an exit code and a last line."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __call__(self, recipe: Path, log: Path) -> Ended:
        log.write_text("begun\nerror: no such thing\n\n")
        return Ended(self._code)


class ManyAtOnce:
    """Runs that are under way for some looks; most: how many were at once, by seed."""

    def __init__(self, start: Callable[[Path, Path], Ended], looks: int = 3) -> None:
        self._start, self._looks = start, looks
        self.under_way: list[str] = []
        self.seen: list[tuple[str, ...]] = []

    def __call__(self, recipe: Path, log: Path) -> _Slow:
        self.under_way.append(recipe.parent.name)
        self.seen.append(tuple(self.under_way))
        self._start(recipe, log)
        return _Slow(self, recipe.parent.name, self._looks)


class _Slow:
    def __init__(self, all_: ManyAtOnce, name: str, looks: int) -> None:
        self._all, self._name, self._looks = all_, name, looks

    def code(self) -> int | None:
        self._looks -= 1
        if self._looks > 0:
            return None
        self._all.under_way.remove(self._name)
        return 0

    def stop(self) -> None:
        pass
