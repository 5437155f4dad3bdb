"""A run's curves as TensorBoard events."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.runtime.console import series_names
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.events.training import JobDone
from pipeline.run.state import State
from pipeline.stages.workers import Progress, Watch


def _points(event: Event, state: State) -> list[tuple[str, float, int]]:
    """What an event adds to TensorBoard: name, value, step."""
    match event:
        case IterationClosed(row=row):
            plain = {
                name: value
                for name, value in row.items()
                if isinstance(value, int | float) and name != "iteration"
            }
            series, step, found = (
                "iteration",
                row["iteration"],
                plain | _shares(row) | _sizes(row),
            )
        case JobDone():
            series, step = _series(event.job)
            found = {"loss": event.loss}
        case Evaluated():
            chain, step = _series(series_names(event, state)[0])
            series, found = f"{chain}/{event.split}", _shares(event.result)
        case _:
            return []
    return [(f"{series}/{name}", value, step) for name, value in found.items()]


def _series(name: str) -> tuple[str, int]:
    """A job's or policy's chain and its number there; 0 for one without, such as `base`."""
    chain, _, number = name.partition("/")
    return chain, int(number) if number else 0


def _shares(result: Mapping[str, Any]) -> dict[str, float]:
    """Greedy accuracy and Pass@K, as far as they were measured."""
    greedy = result.get("greedy")
    passes = result.get("pass_at", {})
    found = {f"pass_at_{k}": float(estimate["value"]) for k, estimate in passes.items()}
    return found if greedy is None else {"greedy": float(greedy), **found}


def _sizes(row: Mapping[str, Any]) -> dict[str, float]:
    """Mean tokens and steps of the responses that were kept and dropped."""
    choice = row.get("choice", {})
    return {
        f"{name}_{unit}": float(choice[name][unit])
        for name in ("kept", "dropped")
        for unit in ("tokens", "steps")
        if choice and choice[name][unit] is not None
    }


class Board(Watch):
    """TensorBoard: a point for each optimizer step, iteration, training job and evaluation.

    A point is on disk a second later. `<chain>/step/…` (loss, gradient norm, learning rate) counts
    optimizer steps of the chain; everything else stands at the number of its job: 3 for `evolve/3`,
    and 0 for a policy without a number.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: Any = None

    @property
    def _writer(self) -> Any:
        """Made with the first point: a run that never began leaves nothing."""
        if self._made is None:
            from tensorboardX import SummaryWriter

            # Its flush() leaves what its thread has not taken from the queue yet.
            self._made = SummaryWriter(str(self._folder), flush_secs=1)
        return self._made

    def event(self, event: Event, state: State) -> None:
        for name, value, step in _points(event, state):
            self._writer.add_scalar(name, value, step)

    def progress(self, progress: Progress) -> None:
        chain = progress.stage.partition("/")[0]
        for point in progress.curve:
            for name in ("loss", "grad_norm", "learning_rate"):
                self._writer.add_scalar(f"{chain}/step/{name}", getattr(point, name), point.step)

    def close(self) -> None:
        """Everything is on disk afterwards."""
        if self._made is not None:
            self._made.close()
