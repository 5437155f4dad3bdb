"""The control: the warm-up policy trained on warm-up's data for as many steps as the evolution."""

from __future__ import annotations

from pipeline.phases.evaluate import evaluation_step
from pipeline.phases.lineage import checkpoint_before, schedule_of, selections
from pipeline.phases.steps import SkipTraining, Step, Train
from pipeline.phases.warmup import sample_warmup
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State
from pipeline.training.job import LearnJob


def next_control(state: State, program: RunSpec) -> Step | None:
    """The warm-up policy trained on warm-up's data, step for step as long as the evolution, and
    chosen the same way."""
    if not program.config.evolve.control:
        return None
    for t in range(program.config.evolve.iterations):
        name, steps = f"control/{t}", state.jobs[f"evolve/{t}"].steps
        if not state.job_done(name):
            before = state.policies[f"control/{t - 1}" if t else "warmup"]
            if not steps:
                return SkipTraining("control/learn", name, before)
            return sample_warmup(state, program) or Train(
                "control/learn", _control_job(state, program, t, steps)
            )
        step = evaluation_step(
            state,
            program,
            state.policies[name],
            program.config.data.validation,
            stage="control/evaluate",
            modes=(GREEDY,),
        )
        if step is not None:
            return step
    return None


def _control_job(state: State, program: RunSpec, t: int, steps: int) -> LearnJob:
    return LearnJob(
        name=f"control/{t}",
        start=checkpoint_before(state, "control", t),
        policy=state.policies["warmup"],
        data=selections(state, "warmup"),
        seed=program.config.run.seed,
        epochs=None,
        max_steps=steps,
        **schedule_of(program.config),
    )
