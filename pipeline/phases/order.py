"""The order of a run: which of its phases comes after which.

    base ──► warm-up ──► process reward model (select.reward=prm)
         ──► explore (before an iteration, where it is due) ⇄ evolve ──► control ──► final

Each phase is one pure file. Its `ready` gives the steps that may run now, most urgent first, from
what the run has done (`State`) and what it is (`RunSpec`). A phase that is not over always has a
step that is ready, under way or not; so one that has none is over, and the next phase begins; it
may begin again (explore does, every few iterations). All steps of one answer may be under way
together. (Only explore gives several: a set of shards for each temperature.)

The test splits are evaluated for base, warm-up, control and final; nothing is ever chosen by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pipeline.phases import base, control, evolve, explore, final, prm, warmup
from pipeline.phases.steps import Step
from pipeline.run.spec import RunSpec
from pipeline.run.state import State


class Phase(Protocol):
    """A part of a run: one module of this package."""

    def ready(self, state: State, spec: RunSpec) -> Sequence[Step]:
        """The steps that may run now; none: the phase is over."""


PHASES: tuple[Phase, ...] = (base, warmup, prm, explore, evolve, control, final)


def ready_steps(state: State, spec: RunSpec, phases: Sequence[Phase] = PHASES) -> Sequence[Step]:
    """What may run now, of the first phase that is not over; none: the run is finished."""
    if state.finished is not None:
        return ()
    for phase in phases:
        if steps := phase.ready(state, spec):
            return steps
    return ()


def to_open(under_way: Sequence[Step], ready: Sequence[Step]) -> Sequence[Step]:
    """The ready steps to begin beside those that are under way.

    None as long as one is under way that is no longer ready (what it was made from is lost): what
    is ready instead may work on the same shards.
    """
    if any(step not in ready for step in under_way):
        return ()
    return [step for step in ready if step not in under_way]
