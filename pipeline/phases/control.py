"""The control phase: the warm-up policy trained on gold-conditioned chains, step for step as long
as the evolution, on the labelled queries that the evolution sees, and chosen the same way."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.phases.evaluate import evaluations
from pipeline.phases.lineage import identity_of, selections, skip_training
from pipeline.phases.methods import schedule_of, start_of
from pipeline.phases.steps import SampleShards, Step, Train
from pipeline.phases.warmup import WARMUP, sample_warmup
from pipeline.refs import ShardSet
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State
from pipeline.training.job import LearnJob

CONTROL = ShardSet("control")


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """The next step of the first job that is not trained or has no figures on validation."""
    for t in range(len(state.iterations) if spec.config.evolve.control else 0):
        name, length = f"control/{t}", state.jobs[f"evolve/{t}"].steps
        if not state.job_done(name):
            if not length:
                before = state.policies[f"control/{t - 1}" if t else "warmup"]
                return (skip_training("control/learn", name, before),)
            return _sample(state, spec) or (Train("control/learn", _job(state, spec, t, length)),)
        policy, validation = state.policies[name], spec.config.data.validation
        stage = "control/evaluate"
        steps = evaluations(state, spec, policy, validation, stage=stage, modes=(GREEDY,))
        if steps:
            return steps
    return ()


def chains_of(state: State, spec: RunSpec) -> ShardSet:
    """The chains that the control trains on: the warm-up's, where these are of all its queries."""
    queries = spec.control_queries(len(state.iterations))
    return WARMUP if queries == spec.warmup_queries else CONTROL


def _sample(state: State, spec: RunSpec) -> Sequence[Step]:
    """Chains of the base for the queries that the evolution saw. (Those which the warm-up has
    are found in the store.)"""
    if chains_of(state, spec) == WARMUP:
        return sample_warmup(state, spec)
    if CONTROL in state.closed:
        return ()
    base = state.policies["base"]
    queries = spec.control_queries(len(state.iterations))
    specs = spec.chain_specs(CONTROL, queries, base)
    return (SampleShards("control/generate", CONTROL, specs, base, spec.warmup_rule),)


def _job(state: State, spec: RunSpec, t: int, length: int) -> LearnJob:
    return LearnJob(
        name=f"control/{t}",
        **start_of(state, spec, "control", t),
        policy=state.policies["warmup"],
        data=selections(state, chains_of(state, spec)),
        seed=spec.config.run.seed,
        epochs=None,
        max_steps=length,
        **schedule_of(spec.config, t),
        **identity_of(state, spec.config),
    )
