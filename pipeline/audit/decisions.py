"""The figures and choices of a run under audit: evaluations, the warm-up, temperatures, iterations,
the end.

What always holds: each is derived again by the function that the driver uses, from the state at
that point and from rows in the store; nothing is changed. An evaluation whose rows are damaged or
gone is not told anything about: the audit names its objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from pipeline.errors import CorruptObject, StoreMissing
from pipeline.phases.explore import (
    dynamics_evaluated,
    dynamics_task,
    search_task,
    temperature_chosen,
)
from pipeline.phases.steps import (
    ChooseTemperature,
    Evaluate,
    EvaluateDynamics,
    Finish,
    Record,
    Step,
)
from pipeline.run.events.evaluation import Evaluated
from pipeline.run.events.event import Event
from pipeline.run.events.exploration import DynamicsEvaluated, TemperatureChosen
from pipeline.run.events.lifecycle import Finished, IterationClosed
from pipeline.run.events.training import WarmupChosen
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.evaluate import EvaluateTask, Read, figures
from pipeline.stages.explore import decision, dynamics_rows
from pipeline.storage.artifacts import inspect_rows
from pipeline.storage.store import Store


def undecided(
    store: Store, spec: RunSpec, state: State, ready: Sequence[Step], event: Event
) -> Iterator[str]:
    """What does not follow about an event that records figures or a choice.

    ready: the steps that may run at this point of the run.
    """
    match event:
        case Evaluated():
            yield from _evaluated(store, spec, state, ready, event)
        case WarmupChosen():
            if all(step.event != WarmupChosen(event.name) for step in _of(Record, ready)):
                yield f"chooses {event.name} for the warm-up, and the evaluations choose another"
        case TemperatureChosen() | DynamicsEvaluated():
            yield from _explored(store, spec, state, ready, event)
        case IterationClosed():
            yield from _closed(ready, event)
        case Finished():
            ends = [(step.final, step.control) for step in _of(Finish, ready)]
            if (event.final, event.control) not in ends:
                yield f"ends with {event.final} and {event.control}, not what validation chooses"


def _of(kind: type[Any], ready: Sequence[Step]) -> list[Any]:
    return [step for step in ready if isinstance(step, kind)]


def _evaluated(
    store: Store, spec: RunSpec, state: State, ready: Sequence[Step], event: Evaluated
) -> Iterator[str]:
    about = (event.version, event.split, event.mode, event.purpose)
    asked = [
        step
        for step in _of(Evaluate, ready)
        if (step.policy.version, step.split, step.mode, step.purpose) == about
    ]
    if not asked:
        yield f"records an evaluation that no plan asks for, {event.purpose}"
        return
    task = EvaluateTask.of(event.split, event.mode, state.shards.get(event.purpose, {}))
    if [shard.grades for shard in task.shards] != event.grades:
        yield f"names other grades than those of {event.purpose}"
        return

    try:
        derived = figures(task, spec, partial(inspect_rows, store))
    except (CorruptObject, StoreMissing):
        return
    if not same_figures(event.result, derived):
        yield f"its figures of {event.purpose} are not what its grades give"


def _explored(
    store: Store,
    spec: RunSpec,
    state: State,
    ready: Sequence[Step],
    event: TemperatureChosen | DynamicsEvaluated,
) -> Iterator[str]:
    searched = isinstance(event, TemperatureChosen)
    name = "the temperature chosen" if searched else "the dynamics"
    what = f"{name} before iteration {event.iteration}"
    asked = _of(ChooseTemperature if searched else EvaluateDynamics, ready)
    if not asked:
        yield f"records {what}, which no plan asks for"
        return
    try:
        derived = _derived(asked[0], state, spec, partial(inspect_rows, store))
    except (CorruptObject, StoreMissing):
        return
    if not same_figures(event.compared(), derived.compared()):
        yield f"records {what}, which is not what the samples give"


def _derived(
    step: ChooseTemperature | EvaluateDynamics, state: State, spec: RunSpec, read: Read
) -> TemperatureChosen | DynamicsEvaluated:
    """The event that a step's stored samples give."""
    if isinstance(step, ChooseTemperature):
        return temperature_chosen(step, decision(search_task(step, state), spec, read))
    return dynamics_evaluated(step, dynamics_rows(dynamics_task(step, state), spec, read))


def _closed(ready: Sequence[Step], event: IterationClosed) -> Iterator[str]:
    rows = [step.event.row for step in _of(Record, ready) if isinstance(step.event, IterationClosed)
            and step.event.iteration == event.iteration]  # fmt: skip
    if not rows:
        yield f"closes iteration {event.iteration}, which is not over"
        return
    for name, value in event.row.items():  # an earlier program's row has fewer columns
        if name not in rows[0] or not same_figures(value, rows[0][name]):
            yield f"the row of iteration {event.iteration} has another {name} than what led to it"


def same_figures(a: Any, b: Any) -> bool:
    """Equal JSON, numbers but for their last digits: another machine may round otherwise."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_figures(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_figures, a, b))
    if isinstance(a, float) and isinstance(b, float | int):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)
