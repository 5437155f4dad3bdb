"""A small run for scripted workers: its configuration, queries and base, and who looks on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.query import Query
from pipeline.run.events.event import Event
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.simulation.fleet import ENGINE
from pipeline.simulation.grader import GRADER
from pipeline.simulation.learner import BATCH
from pipeline.stages.workers import Progress, Watch


class Crash(BaseException):
    """The driver's process dies here. Not an Exception: nothing may catch it."""


def make_query(split: str, number: int) -> Query:
    return Query(
        query_id=f"{split}-{number}",
        images=(),
        question=f"{split}: what is {number}?",
        choices=None,
        answer=str(number),
        answer_type="number",
        source=f"family/{number % 2}",
        split=split,
    )


def make_config(**changes: Mapping[str, Any]) -> Config:
    """A small run: 12 queries, 3 iterations of 4, shards of 2."""
    plain: dict[str, dict[str, Any]] = {
        "run": {"name": "scripted"},
        "policy": {"path": "set by make_world"},
        "data": {"test": ["test"]},
        "warmup": {"samples": 2, "queries": 6, "epochs": 3, "flat_evaluations": 1},
        "generate": {"samples": 3, "shard_queries": 2, "lookahead": 3, "max_new_tokens": 64},
        "select": {"rule": "random_k", "k": 2},
        "learn": {"batch_size": BATCH, "window": 64},
        "evolve": {"iterations": 3, "interval": 1 / 3},
        "evaluate": {"samples": 2, "shard_queries": 3},
    }
    for section, values in changes.items():
        plain[section] = {**plain.get(section, {}), **values}
    return config_from_dict(plain)


def prm_config(**prm: Any) -> Config:
    """A small run that selects by a process reward model, which so few labels cannot show the
    worth of."""
    settings = {"samples": 6, "completions": 3, "pairs": 2, "held_out": 0.3, "use_anyway": True}
    settings |= prm
    return make_config(
        select={"rule": "top_k", "k": 1, "reward": "prm"}, prm=settings, generate={"samples": 6}
    )


def make_program(config: Config, images: Sequence[str] = ()) -> RunSpec:
    """Of the images, by hash, each query has one in turn."""
    queries = [make_query("train", i) for i in range(12)]
    queries += [make_query(split, i) for split in ("validation", "test") for i in range(5)]
    if images:
        shown = cycle(images)
        queries = [replace(query, images=(next(shown),)) for query in queries]
    return RunSpec.of(config, Dataset(queries, {}), ENGINE, GRADER)


def base_folder(folder: Path, skill: float = 0.3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.json").write_text(json.dumps({"skill": skill, "trained": "nothing"}))
    return folder


class Quiet(Watch):
    """Looks on and remembers. react: called with every event once it is committed."""

    def __init__(self) -> None:
        self.react: Callable[[Event], None] = lambda event: None
        self.said: list[str] = []
        self.moves: list[Progress] = []
        self.events: list[Event] = []

    def event(self, event: Event, state: State) -> None:
        self.events.append(event)
        self.react(event)

    def progress(self, progress: Progress) -> None:
        self.moves.append(progress)

    def say(self, text: str) -> None:
        self.said.append(text)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def with_base(config: Config, folder: Path, skill: float = 0.3) -> Config:
    path = str(base_folder(folder, skill))
    return config.model_copy(update={"policy": config.policy.model_copy(update={"path": path})})
