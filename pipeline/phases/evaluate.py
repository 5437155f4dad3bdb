"""Evaluations that are due: which split and mode of a policy has no figures yet."""

from __future__ import annotations

from pipeline.phases.prm import measure_scoring
from pipeline.phases.steps import Evaluate, SampleShards, Step
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec, evaluation_purpose
from pipeline.run.state import GREEDY, SAMPLED, State


def evaluation_steps(state: State, program: RunSpec, name: str, stage: str) -> Step | None:
    """Validation, and the test splits: for base, warm-up, control and final."""
    for split in (program.config.data.validation, *program.test_splits):
        policy = state.policies[name]
        step = evaluation_step(state, program, policy, split, stage=f"{stage}/evaluate")
        if step is not None:
            return step
    return None


def evaluation_step(
    state: State,
    program: RunSpec,
    policy: PolicyRef,
    split: str,
    *,
    stage: str,
    modes: tuple[str, ...] = (GREEDY, SAMPLED),
) -> Step | None:
    for mode in modes:
        if mode == SAMPLED and program.samples(split) == 0:
            continue
        if state.evaluation(policy, split, mode) is not None:
            continue
        purpose = evaluation_purpose(policy, split, mode)
        if purpose in state.closed:
            return Evaluate(stage, purpose, policy, split, mode)
        specs = program.evaluation_specs(policy, split, mode)
        scoring = measure_scoring(state, program, split) if mode == SAMPLED else None
        return SampleShards(stage, purpose, specs, policy, None, scoring)
    return None
