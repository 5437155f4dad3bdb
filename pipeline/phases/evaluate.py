"""Evaluations that are due: which splits of a policy have no figures yet, greedy or sampled."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.phases.prm import evaluation_scoring
from pipeline.phases.steps import Evaluate, SampleShards, Step
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec, evaluation_purpose
from pipeline.run.state import GREEDY, SAMPLED, State


def all_evaluations(state: State, spec: RunSpec, name: str, stage: str) -> Sequence[Step]:
    """The next step towards a policy's figures on validation and on the test splits; none: all are
    there. (Of base, warm-up, control and final.)"""
    policy = state.policies[name]
    for split in (spec.config.data.validation, *spec.test_splits):
        steps = evaluations(state, spec, policy, split, stage=f"{stage}/evaluate")
        if steps:
            return steps
    return ()


def evaluations(
    state: State,
    spec: RunSpec,
    policy: PolicyRef,
    split: str,
    *,
    stage: str,
    modes: tuple[str, ...] = (GREEDY, SAMPLED),
) -> Sequence[Step]:
    """The next step towards a policy's figures on one split; none: all are there."""
    for mode in modes:
        if mode == SAMPLED and spec.samples(split) == 0:
            continue
        if state.evaluation(policy, split, mode) is not None:
            continue
        purpose = evaluation_purpose(policy, split, mode)
        if purpose in state.closed:
            return (Evaluate(stage, purpose, policy, split, mode),)
        specs = spec.evaluation_specs(policy, split, mode)
        scoring = evaluation_scoring(state, spec, split) if mode == SAMPLED else None
        return (SampleShards(stage, purpose, specs, policy, None, scoring),)
    return ()
