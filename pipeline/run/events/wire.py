"""From the ledger's JSON to events, and from a ledger to the state of its run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.errors import LedgerNewer
from pipeline.run.events.evaluation import Evaluated, EvaluationLost
from pipeline.run.events.event import Event, form
from pipeline.run.events.exploration import DynamicsEvaluated, TemperatureChosen
from pipeline.run.events.lifecycle import (
    DriverStarted,
    Finished,
    IterationClosed,
    PolicyPublished,
    PoolResized,
    RunCreated,
)
from pipeline.run.events.prm import LabelsLost, LabelsMade, PrmJudged
from pipeline.run.events.sampling import (
    ObjectLost,
    SamplingClosed,
    ShardAccepted,
    ShardGraded,
    ShardScored,
)
from pipeline.run.events.training import (
    CheckpointLost,
    CheckpointSaved,
    JobDone,
    JobSkipped,
    Retired,
    WarmupChosen,
)
from pipeline.run.state import State

EVENTS: tuple[type[Event], ...] = (
    RunCreated, DriverStarted, PolicyPublished, PoolResized, IterationClosed, Finished,
    ShardAccepted, ShardGraded, ShardScored, ObjectLost, SamplingClosed,
    CheckpointSaved, CheckpointLost, JobDone, JobSkipped, WarmupChosen, Retired,
    LabelsMade, LabelsLost, PrmJudged,
    Evaluated, EvaluationLost, TemperatureChosen, DynamicsEvaluated,
)  # fmt: skip
"""Every type of event that a ledger may hold."""

_BY_TYPE = {kind.type: kind for kind in EVENTS}


def from_wire(wire: Mapping[str, Any]) -> Event:
    """The event that a ledger's JSON object is.

    Raises:
        LedgerNewer: its type, or a field of it, is unknown to this version.
    """
    fields = dict(wire)
    name = fields.pop("type")
    if name not in _BY_TYPE:
        raise LedgerNewer(f"the ledger holds an event of type {name!r}, unknown to this version")
    try:
        event: Event = form(_BY_TYPE[name]).validate_python(fields)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise LedgerNewer(
            f"the ledger holds a {name} event that this version cannot read ({wrong})"
        ) from error
    return event


def replay(wires: Iterable[Mapping[str, Any]], state: State | None = None) -> State:
    """The state after these events of a ledger, on top of `state` (a snapshot's) where given."""
    state = State() if state is None else state
    for wire in wires:
        state.apply(from_wire(wire))
    return state
