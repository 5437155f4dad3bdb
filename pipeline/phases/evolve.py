"""The evolve phase: one iteration after the other, sampled, trained on, validated, closed."""

from __future__ import annotations

from pipeline.phases.evaluate import evaluation_step
from pipeline.phases.lineage import checkpoint_before, policy_before, schedule_of, selections
from pipeline.phases.prm import evolve_rule, evolve_scoring
from pipeline.phases.steps import CloseIteration, SampleShards, SkipTraining, Step, Train
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.training.job import LearnJob


def next_iteration(state: State, program: RunSpec) -> Step | None:
    t = len(state.iterations)
    if t >= program.config.evolve.iterations:
        return None
    purpose, policy = f"evolve/{t}", policy_before(state, t)
    if not state.job_done(purpose):
        if purpose not in state.closed:
            specs = program.evolve_specs(t, policy)
            rule, scoring = evolve_rule(state, program), evolve_scoring(state, program)
            return SampleShards(f"{purpose}/generate", purpose, specs, policy, rule, scoring)
        data = selections(state, purpose)
        if not data:
            return SkipTraining(f"{purpose}/learn", purpose, policy)
        return Train(f"{purpose}/learn", _evolve_job(state, program, t, policy, data))
    step = evaluation_step(
        state,
        program,
        state.policies[purpose],
        program.config.data.validation,
        stage=f"{purpose}/evaluate",
    )
    return step or CloseIteration(f"{purpose}/evaluate", t)


def _evolve_job(
    state: State, program: RunSpec, t: int, policy: PolicyRef, data: tuple[str, ...]
) -> LearnJob:
    config = program.config
    start = checkpoint_before(state, "evolve", t)
    return LearnJob(
        name=f"evolve/{t}",
        start=start,
        policy=policy,
        data=data,
        seed=config.run.seed,
        epochs=config.evolve.epochs,
        max_steps=None,
        check_logprobs=True,
        temperature=config.generate.temperature,
        top_p=config.generate.top_p,
        **schedule_of(config),
    )
