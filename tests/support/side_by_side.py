"""Phases of a run whose steps run side by side, as far as the results allow it.

    base published ──► base evaluated on every split, and the warm-up's chains sampled
        ──► warm-up trained ──► warm-up evaluated on every split beside the whole evolution
        ──► control ──► final

They give the results of the order that ships: what is evaluated beside changes nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.phases import base, control, evolve, final, warmup
from pipeline.phases.evaluate import evaluations
from pipeline.phases.order import Phase
from pipeline.phases.steps import Step
from pipeline.run.spec import RunSpec
from pipeline.run.state import State


@dataclass(frozen=True)
class Only:
    """A phase that is one function."""

    ready: Callable[[State, RunSpec], Sequence[Step]]


def _all_splits(state: State, spec: RunSpec, name: str) -> list[Step]:
    """The next step of every split at once."""
    splits = (spec.config.data.validation, *spec.test_splits)
    policy, stage = state.policies[name], f"{name}/evaluate"
    return [
        step for split in splits for step in evaluations(state, spec, policy, split, stage=stage)
    ]


def _base(state: State, spec: RunSpec) -> Sequence[Step]:
    if "base" not in state.policies:
        return base.ready(state, spec)
    sampled = warmup.sample_warmup(state, spec) if state.warmup is None else ()
    return [*_all_splits(state, spec, "base"), *sampled]


def _warmup(state: State, spec: RunSpec) -> Sequence[Step]:
    return warmup.ready(state, spec) if state.warmup is None else ()


def _evolve(state: State, spec: RunSpec) -> Sequence[Step]:
    return [*evolve.ready(state, spec), *_all_splits(state, spec, "warmup")]


SIDE_BY_SIDE: tuple[Phase, ...] = (Only(_base), Only(_warmup), Only(_evolve), control, final)
