"""The evolve phase: one iteration after the other, sampled, trained on, validated, closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.phases.evaluate import evaluations
from pipeline.phases.iteration_row import iteration_row
from pipeline.phases.lineage import (
    identity_of,
    policy_before,
    selections,
    skip_training,
    temperature_of,
)
from pipeline.phases.methods import (
    METHODS,
    gold_of,
    length_of,
    schedule_of,
    start_of,
    starts_from_sampled,
    stops_because,
)
from pipeline.phases.prm import (
    evolve_rule,
    evolve_scoring,
    unlabelled_scoring,
    unlabelled_vote,
)
from pipeline.phases.steps import Record, SampleShards, Step, Train
from pipeline.refs import PolicyRef, ShardSet
from pipeline.run.events.lifecycle import IterationClosed
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.training.job import LearnJob


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """The next step of the iteration that is not closed."""
    t = len(state.iterations)
    if stops_because(state, spec) is not None:
        return ()
    purpose, policy = ShardSet("evolve", t), policy_before(state, t)
    if not state.job_done(purpose):
        for sampling in _samplings(state, spec, t, policy):
            if sampling.purpose not in state.closed:
                return (sampling,)
        job = _job(state, spec, t, policy)
        if not (job.data or job.gold):
            return (skip_training(f"{purpose}/learn", purpose, policy),)
        return (Train(f"{purpose}/learn", job),)
    trained, validation = state.policies[purpose], spec.config.data.validation
    stage = f"{purpose}/evaluate"
    steps = evaluations(state, spec, trained, validation, stage=stage)
    return steps or (Record(stage, IterationClosed(t, iteration_row(state, spec, t))),)


def _samplings(state: State, spec: RunSpec, t: int, policy: PolicyRef) -> Iterator[SampleShards]:
    """What an iteration is sampled from: its labelled queries, then its unlabelled ones; nothing
    where it trains on gold answers."""
    if METHODS[spec.config.evolve.method].gold:
        return
    temperature, rule = temperature_of(state, spec, t), evolve_rule(state, spec)
    purpose, specs = ShardSet("evolve", t), spec.evolve_specs(t, policy, temperature)
    scoring = evolve_scoring(state, spec)
    yield SampleShards(f"{purpose}/generate", purpose, specs, policy, rule, scoring)
    specs = spec.unlabelled_specs(t, policy, temperature)
    if specs:
        vote, scoring = unlabelled_vote(state, spec), unlabelled_scoring(state, spec)
        pool = ShardSet("unlabelled", t)
        yield SampleShards(f"{pool}/generate", pool, specs, policy, rule, scoring, vote)


def _job(state: State, spec: RunSpec, t: int, policy: PolicyRef) -> LearnJob:
    config = spec.config
    data = selections(state, ShardSet("evolve", t)) + selections(state, ShardSet("unlabelled", t))
    return LearnJob(
        name=f"evolve/{t}",
        **start_of(state, spec, "evolve", t),
        policy=policy,
        data=data,
        seed=config.run.seed,
        **length_of(state, spec, t),
        check_logprobs=starts_from_sampled(state, spec, t),
        temperature=temperature_of(state, spec, t),
        top_p=config.generate.top_p,
        **schedule_of(config, t),
        **identity_of(state, config),
        gold=gold_of(spec, t) if METHODS[config.evolve.method].gold else (),
    )
