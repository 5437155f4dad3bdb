"""The warm-up phase: gold-conditioned chains of the base, and rounds of training on them until
validation is flat."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import RunStopped
from pipeline.phases.evaluate import all_evaluations, evaluations
from pipeline.phases.lineage import best_of, checkpoint_before, identity_of, selections
from pipeline.phases.steps import PublishFolder, Record, SampleShards, Step, Train
from pipeline.refs import ShardSet
from pipeline.run.events.training import WarmupChosen
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State
from pipeline.training.job import LearnJob

WARMUP = ShardSet("warmup")


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """Make the warm-up policy (or publish the user's own), then evaluate it on every split."""
    if state.warmup is not None:
        return all_evaluations(state, spec, "warmup", "warmup")
    ready_made, settings = spec.config.warmup.checkpoint, spec.config.model_settings
    if ready_made is not None:
        return (PublishFolder("warmup/prepare", "warmup", ready_made, settings),)
    return sample_warmup(state, spec) or _next_round(state, spec)


def sample_warmup(state: State, spec: RunSpec) -> Sequence[Step]:
    """The warm-up's chains."""
    if "warmup" in state.closed:
        return ()
    base = state.policies["base"]
    specs = spec.chain_specs(WARMUP, spec.warmup_queries, base)
    return (SampleShards("warmup/generate", WARMUP, specs, base, spec.warmup_rule),)


def _next_round(state: State, spec: RunSpec) -> Sequence[Step]:
    """Validate the last round of training, then train another or choose the best."""
    warmup, validation = spec.config.warmup, spec.config.data.validation
    rounds = [
        name for name in (f"warmup/{r}" for r in range(warmup.epochs)) if state.job_done(name)
    ]
    for name in rounds:
        policy = state.policies[name]
        steps = evaluations(
            state, spec, policy, validation, stage="warmup/evaluate", modes=(GREEDY,)
        )
        if steps:
            return steps
    greedy = [state.greedy(state.policies[name], validation) for name in rounds]
    epochs_left = warmup.epochs - len(rounds) * warmup.epochs_per_evaluation
    if rounds and (epochs_left <= 0 or is_flat(greedy, warmup.flat_evaluations, warmup.flat_gain)):
        return (Record("warmup/evaluate", WarmupChosen(rounds[best_of(greedy)])),)
    if not selections(state, "warmup"):
        raise RunStopped(_nothing_to_train_on(spec))
    epochs = min(warmup.epochs_per_evaluation, epochs_left)
    return (Train("warmup/learn", _job(state, spec, len(rounds), epochs)),)


def _nothing_to_train_on(spec: RunSpec) -> str:
    ours = " and may be trained on (prompt.trained=ours)" if spec.rule.ours_only else ""
    return (
        f"warm-up: not one of the base's chains has the right answer where it is read{ours}, so "
        "there is nothing to train on. Look at them with `mstar-ray validate`: a model that "
        "follows instructions has to be asked for the format (prompt.question, prompt.warmup), and "
        "other shapes can be read (prompt.shapes); jobs/recipes/own.yaml has examples. Or give a "
        "warm-up of your own (warmup.checkpoint)"
    )


def _job(state: State, spec: RunSpec, number: int, epochs: int) -> LearnJob:
    warmup = spec.config.warmup
    batches = -(-state.closed["warmup"]["coverage"]["kept"] // spec.config.learn.batch_size)
    return LearnJob(
        name=f"warmup/{number}",
        start=checkpoint_before(state, "warmup", number),
        policy=state.policies["base"],
        data=selections(state, "warmup"),
        seed=spec.config.run.seed,
        epochs=epochs,
        max_steps=None,
        learning_rate=warmup.learning_rate,
        schedule=warmup.schedule,
        schedule_steps=None if warmup.schedule == "constant" else warmup.epochs * batches,
        **identity_of(state, spec.config),
    )


def is_flat(greedy: list[float], window: int, gain: float) -> bool:
    """No evaluation of the last `window` beats the best one before them by `gain`."""
    if len(greedy) <= window:
        return False
    return max(greedy[-window:]) < max(greedy[:-window]) + gain
