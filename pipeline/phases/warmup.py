"""The warm-up phase: gold-conditioned chains, then training rounds until validation is flat."""

from __future__ import annotations

from pipeline.errors import RunStopped
from pipeline.phases.evaluate import evaluation_step
from pipeline.phases.lineage import best_of, checkpoint_before, selections
from pipeline.phases.steps import ChooseWarmup, PublishFolder, SampleShards, Step, Train
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State
from pipeline.training.job import LearnJob


def next_warmup(state: State, program: RunSpec) -> Step | None:
    warmup = program.config.warmup
    if state.warmup is not None:
        return None
    if warmup.checkpoint is not None:
        return PublishFolder("warmup/prepare", "warmup", warmup.checkpoint)
    sampled = sample_warmup(state, program)
    if sampled is not None:
        return sampled
    validation = program.config.data.validation
    rounds = [
        name for name in (f"warmup/{r}" for r in range(warmup.epochs)) if state.job_done(name)
    ]
    for name in rounds:
        policy = state.policies[name]
        step = evaluation_step(
            state, program, policy, validation, stage="warmup/evaluate", modes=(GREEDY,)
        )
        if step is not None:
            return step
    greedy = [state.greedy(state.policies[name], validation) for name in rounds]
    epochs_left = warmup.epochs - len(rounds) * warmup.epochs_per_evaluation
    if rounds and (epochs_left <= 0 or is_flat(greedy, warmup.flat_evaluations, warmup.flat_gain)):
        return ChooseWarmup("warmup/evaluate", rounds[best_of(greedy)])
    if not selections(state, "warmup"):
        raise RunStopped(
            "warm-up: not one of the base's chains has the right answer, so there is nothing to "
            "train on. Look at them with `mstar-ray validate`: an instruction-tuned model has "
            "to be told what a chain looks like (warmup.template; jobs/recipes/own.yaml has an "
            "example). Or give a warm-up of your own (warmup.checkpoint)"
        )
    epochs = min(warmup.epochs_per_evaluation, epochs_left)
    return Train("warmup/learn", _warmup_job(state, program, len(rounds), epochs))


def sample_warmup(state: State, program: RunSpec) -> Step | None:
    """The warm-up's chains, which the control trains on again at the end."""
    if "warmup" in state.closed:
        return None
    base = state.policies["base"]
    return SampleShards(
        "warmup/generate", "warmup", program.warmup_specs(base), base, program.warmup_rule
    )


def _warmup_job(state: State, program: RunSpec, number: int, epochs: int) -> LearnJob:
    warmup = program.config.warmup
    batches = -(-state.closed["warmup"]["coverage"]["kept"] // program.config.learn.batch_size)
    return LearnJob(
        name=f"warmup/{number}",
        start=checkpoint_before(state, "warmup", number),
        policy=state.policies["base"],
        data=selections(state, "warmup"),
        seed=program.config.run.seed,
        epochs=epochs,
        max_steps=None,
        learning_rate=warmup.learning_rate,
        schedule=warmup.schedule,
        schedule_steps=None if warmup.schedule == "constant" else warmup.epochs * batches,
    )


def is_flat(greedy: list[float], window: int, gain: float) -> bool:
    """No evaluation of the last `window` beats the best one before them by `gain`."""
    if len(greedy) <= window:
        return False
    return max(greedy[-window:]) < max(greedy[:-window]) + gain
