"""Training methods: what each iteration starts from and inherits, and when the evolution is over.

    method          starts from           optimizer, schedule   queries of an iteration
    continuous      the last iteration    inherited             evolve.interval of the pool
    iterative_rft   the last iteration    new                   all of them
    rest_em         the warm-up           new                   all of them
    sft             the last iteration    inherited             evolve.interval of the pool
                                                                          (paper section 2, Table 1)

`sft` is the baseline: no responses are sampled, and it trains on the gold answers themselves, in
the form of a response. Its iterations are stretches of one training, so that it is evaluated,
stopped and compared as the others are.

What always holds: a start is the float32 master weights of a checkpoint, never the published
policy, whose weights are rounded to the precision of training, but for a warm-up of the user's own,
which has no checkpoint. What the first iteration starts from is the warm-up, with a new optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config.learning import MethodName
from pipeline.config.schema import Config
from pipeline.errors import RunStopped
from pipeline.phases.lineage import checkpoint_before, policy_before
from pipeline.refs import CheckpointRef
from pipeline.responses import answer_alone
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.training.settings import Span, learning_rate_at


@dataclass(frozen=True)
class Method:
    """One row of the table. start: whose weights an iteration begins with; inherits: whether Adam's
    moments and the schedule go on with them; gold: it trains on gold answers, not on responses."""

    start: Literal["last", "warmup"]
    inherits: bool
    gold: bool = False


METHODS: dict[MethodName, Method] = {
    "continuous": Method("last", inherits=True),
    "iterative_rft": Method("last", inherits=False),
    "rest_em": Method("warmup", inherits=False),
    "sft": Method("last", inherits=True, gold=True),
}


def start_of(state: State, spec: RunSpec, chain: str, iteration: int) -> dict[str, Any]:
    """Where a job of a chain ("evolve", "control") begins: `start`, `inherit` and `weights` of its
    `LearnJob`. The control is trained as the evolution is.

    Raises:
        RunStopped: a checkpoint is gone; what was published of it never takes its place.
    """
    method = METHODS[spec.config.evolve.method]
    if spec.config.run.rules == 1:
        return {"start": checkpoint_before(state, chain, iteration)}
    last = checkpoint_before(state, chain, iteration) if method.start == "last" else None
    if last is not None:
        return {"start": last, "inherit": "all" if method.inherits else "weights"}
    if state.warmup not in state.jobs:  # a warm-up of the user's own
        return {"start": None, "weights": state.policies["warmup"]}
    warmup = warmup_checkpoint(state)
    if warmup is None:
        raise RunStopped(f"the checkpoint of {state.warmup} is no longer in the store")
    return {"start": warmup, "inherit": "weights"}


def starts_from_sampled(state: State, spec: RunSpec, iteration: int) -> bool:
    """Whether an iteration's training begins with the weights that its responses were sampled from,
    so that its first batch can be compared with the engine's log-probabilities; gold answers were
    sampled from none."""
    method = METHODS[spec.config.evolve.method]
    if method.gold or method.start == "last":
        return not method.gold
    return policy_before(state, iteration).version == state.policies["warmup"].version


def warmup_checkpoint(state: State) -> CheckpointRef | None:
    """Of the round that the warm-up policy is of; None for a warm-up of the user's own."""
    job = state.jobs.get(state.warmup or "")
    return None if job is None else job.checkpoint


def kept_for_later(state: State, spec: RunSpec) -> tuple[CheckpointRef | None, ...]:
    """Checkpoints that a later job may begin with, besides the last one of its chain."""
    if spec.config.run.rules == 1:
        return ()
    if state.warmup is None:  # which round it will be is not known yet
        rounds = [job for name, job in state.jobs.items() if name.startswith("warmup/")]
        return tuple(job.checkpoint for job in rounds if job.done)
    again = METHODS[spec.config.evolve.method].start == "warmup"
    chains = ("evolve", "control") if spec.config.evolve.control else ("evolve",)
    to_come = any(not state.job_done(f"{chain}/0") for chain in chains)
    return (warmup_checkpoint(state),) if again or to_come else ()


def gold_of(spec: RunSpec, iteration: int) -> tuple[tuple[str, str], ...]:
    """The gold answers that an iteration of `sft` trains on: query and response, in the order of
    its slice."""
    return tuple(
        (one, answer_alone(str(spec.by_hash[one].answer))) for one in spec.slice(iteration)
    )


def length_of(state: State, spec: RunSpec, iteration: int) -> dict[str, Any]:
    """How long an iteration's job trains: `epochs` and `max_steps`.

    With `evolve.steps` each iteration of `sft` takes its part of them, over as many epochs as that
    is; the others take what their responses make, at most what is left.
    """
    evolve = spec.config.evolve
    if METHODS[evolve.method].gold and evolve.steps is not None:
        ends = [evolve.steps * t // evolve.iterations for t in (iteration, iteration + 1)]
        return {"epochs": None, "max_steps": max(1, ends[1] - ends[0])}
    return {"epochs": evolve.epochs, "max_steps": steps_left(state, spec)}


def schedule_of(config: Config, iteration: int) -> dict[str, Any]:
    """The schedule of an iteration's job: the part of the run that the iteration is, however many
    steps its rows make; by rules 1, so many optimizer steps."""
    learn = config.learn
    found: dict[str, Any] = {
        "learning_rate": learn.learning_rate,
        "schedule": learn.schedule,
        "schedule_rise": learn.schedule_rise,
        "schedule_steps": learn.schedule_steps,
    }
    if not METHODS[config.evolve.method].inherits and learn.schedule != "constant":
        found["span"] = (0.0, 1.0 / learn.schedule_share)  # with a new optimizer, anew
    elif config.run.rules > 1 and learn.schedule != "constant":
        whole = config.evolve.iterations * learn.schedule_share
        found["span"] = (iteration / whole, (iteration + 1) / whole)
    return found


def last_learning_rate(state: State, spec: RunSpec, chain: str, iteration: int) -> float | None:
    """The learning rate of the last optimizer step of an iteration's job; None where it took
    none."""
    steps = state.jobs[f"{chain}/{iteration}"].steps
    if not steps:
        return None
    inherits = METHODS[spec.config.evolve.method].inherits
    before = range(iteration) if inherits else range(0)
    first = sum(state.jobs[f"{chain}/{earlier}"].steps for earlier in before)
    span = schedule_of(spec.config, iteration).get("span")
    return learning_rate_at(
        first + steps - 1,
        spec.config.learn,
        None if span is None else Span(span[0], span[1], first, steps),
    )


# --- when it is over -----------------------------------------------------------------------------


def stops_because(state: State, spec: RunSpec) -> str | None:
    """Why no further iteration begins; None: one does.

    By iterations, optimizer steps, patience (so many iterations without a better validation greedy)
    or saturation, whichever comes first.
    """
    evolve, rows = spec.config.evolve, state.iterations
    if len(rows) >= evolve.iterations:
        return f"evolve.iterations = {evolve.iterations} are done"
    steps = sum(row["steps"] for row in rows)
    if evolve.steps is not None and steps >= evolve.steps:
        return f"evolve.steps = {evolve.steps} are done"
    if evolve.patience is not None and len(rows) > evolve.patience:
        greedy = [row["greedy"] for row in rows]
        if max(greedy[-evolve.patience :]) <= max(greedy[: -evolve.patience]):
            return f"validation greedy has not risen for {evolve.patience} iterations"
    return saturated(state, spec) if evolve.stop_saturated else None


def saturated(state: State, spec: RunSpec) -> str | None:
    """Why more iterations may teach nothing, by the last one's row; None: they may.

    Head-room is gone: Pass@K on validation, which is what selection can choose from, cannot be told
    from greedy.
    """
    passes = state.iterations[-1]["pass_at"] if state.iterations else {}
    if not passes:
        return None
    k, greedy = max(passes, key=int), state.iterations[-1]["greedy"]
    if passes[k]["ci95"][0] > greedy:
        return None
    return (
        f"Pass@{k} ({100 * passes[k]['value']:.1f} %) cannot be told from greedy "
        f"({100 * greedy:.1f} %): nothing is left to select"
    )


def steps_left(state: State, spec: RunSpec) -> int | None:
    """Optimizer steps that the next iteration may take at most."""
    limit = spec.config.evolve.steps
    return None if limit is None else max(1, limit - sum(row["steps"] for row in state.iterations))
