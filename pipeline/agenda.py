"""What a run does next: one pure function of what it has done (`State`) and what it is (`Program`).

The order of a run:

    base ──► measure it ──► warm-up: sample chains ──► (train ──► validation greedy)* until flat
         ──► measure the warm-up policy
         ──► with select.reward=prm: build and judge the process reward model (`prm_agenda`)
         ──► (sample a slice ──► train ──► validate ──► close)* for each iteration
         ──► control: (train as many steps on warm-up's data ──► validation greedy)*
         ──► measure control and final (best validation greedy, ties to the later) ──► done

The test splits are measured for base, warm-up, control and final; nothing is ever chosen by them.
"""

from __future__ import annotations

from typing import Any

from pipeline.prm_agenda import evolve_rule, evolve_scoring, measure_scoring, next_prm
from pipeline.program import Program, evaluation_purpose
from pipeline.roles import CheckpointRef, LearnJob, PolicyRef
from pipeline.settings import Config
from pipeline.state import GREEDY, SAMPLED, State
from pipeline.steps import (
    ChooseWarmup,
    CloseIteration,
    Finish,
    Measure,
    PublishFolder,
    RunStopped,
    SampleShards,
    SkipTraining,
    Step,
    Train,
)

__all__ = [
    "ChooseWarmup",
    "CloseIteration",
    "Finish",
    "Measure",
    "PublishFolder",
    "RunStopped",
    "SampleShards",
    "SkipTraining",
    "Step",
    "Train",
    "next_step",
]

# --- the order -----------------------------------------------------------------------------------


def next_step(state: State, program: Program) -> Step | None:
    """The one thing to do now; None when the run is finished."""
    if state.finished is not None:
        return None
    if "base" not in state.policies:
        return PublishFolder("prepare", "base", program.config.policy.path)
    return (
        _measured(state, program, "base", "base")
        or _next_warmup(state, program)
        or _measured(state, program, "warmup", "warmup")
        or next_prm(state, program)
        or _next_iteration(state, program)
        or _next_control(state, program)
        or _next_final(state, program)
    )


def _measured(state: State, program: Program, name: str, stage: str) -> Step | None:
    """Validation, and the test splits: for base, warm-up, control and final."""
    data = program.config.data
    for split in (data.validation, *data.test):
        policy = state.policies[name]
        step = _evaluated(state, program, policy, split, stage=f"{stage}/evaluate")
        if step is not None:
            return step
    return None


def _evaluated(
    state: State,
    program: Program,
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
            return Measure(stage, purpose, policy, split, mode)
        specs = program.evaluation_specs(policy, split, mode)
        scoring = measure_scoring(state, program, split) if mode == SAMPLED else None
        return SampleShards(stage, purpose, specs, policy, None, scoring)
    return None


# --- warm-up -------------------------------------------------------------------------------------


def _next_warmup(state: State, program: Program) -> Step | None:
    warmup = program.config.warmup
    if state.warmup is not None:
        return None
    if warmup.checkpoint is not None:
        return PublishFolder("warmup/prepare", "warmup", warmup.checkpoint)
    sampled = _warmup_sampled(state, program)
    if sampled is not None:
        return sampled
    validation = program.config.data.validation
    rounds = [
        name for name in (f"warmup/{r}" for r in range(warmup.epochs)) if state.job_done(name)
    ]
    for name in rounds:
        policy = state.policies[name]
        step = _evaluated(
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
            "train on; look at them with `python -m jobs.validate`, or give a warm-up of your own "
            "(warmup.checkpoint)"
        )
    epochs = min(warmup.epochs_per_evaluation, epochs_left)
    return Train("warmup/learn", _warmup_job(state, program, len(rounds), epochs))


def _warmup_sampled(state: State, program: Program) -> Step | None:
    """The warm-up's chains, which the control trains on again at the end."""
    if "warmup" in state.closed:
        return None
    base = state.policies["base"]
    return SampleShards(
        "warmup/generate", "warmup", program.warmup_specs(base), base, program.warmup_rule
    )


def _warmup_job(state: State, program: Program, number: int, epochs: int) -> LearnJob:
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


def best_of(greedy: list[float]) -> int:
    """Index of the highest value, ties to the later one."""
    return max(range(len(greedy)), key=lambda i: (greedy[i], i))


def selections(state: State, purpose: str) -> tuple[str, ...]:
    """The selections of a purpose in plan order."""
    shards = state.shards.get(purpose, {})
    return tuple(
        shard.selected
        for _, shard in sorted(shards.items())
        if shard.selected is not None and shard.coverage["kept"] > 0
    )


# --- evolution -----------------------------------------------------------------------------------


def policy_before(state: State, iteration: int) -> PolicyRef:
    """The policy that an iteration samples from."""
    return state.policies[f"evolve/{iteration - 1}" if iteration else "warmup"]


def checkpoint_before(state: State, chain: str, iteration: int) -> CheckpointRef | None:
    """The checkpoint that a job of a chain continues: of the last job that trained.

    None only when no job of the chain has trained; a missing one must never reset the optimizer.
    """
    for earlier in range(iteration - 1, -1, -1):
        job = state.jobs[f"{chain}/{earlier}"]
        if job.steps:
            if job.checkpoint is None:
                raise RunStopped(f"the checkpoint of {chain}/{earlier} is no longer in the store")
            return job.checkpoint
    return None


def _next_iteration(state: State, program: Program) -> Step | None:
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
    step = _evaluated(
        state,
        program,
        state.policies[purpose],
        program.config.data.validation,
        stage=f"{purpose}/evaluate",
    )
    return step or CloseIteration(f"{purpose}/evaluate", t)


def _evolve_job(
    state: State, program: Program, t: int, policy: PolicyRef, data: tuple[str, ...]
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
        **_schedule(config),
    )


def _schedule(config: Config) -> dict[str, Any]:
    learn = config.learn
    return {
        "learning_rate": learn.learning_rate,
        "schedule": learn.schedule,
        "schedule_rise": learn.schedule_rise,
        "schedule_steps": learn.schedule_steps,
    }


# --- control and the end -------------------------------------------------------------------------


def _next_control(state: State, program: Program) -> Step | None:
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
            return _warmup_sampled(state, program) or Train(
                "control/learn", _control_job(state, program, t, steps)
            )
        step = _evaluated(
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


def _control_job(state: State, program: Program, t: int, steps: int) -> LearnJob:
    return LearnJob(
        name=f"control/{t}",
        start=checkpoint_before(state, "control", t),
        policy=state.policies["warmup"],
        data=selections(state, "warmup"),
        seed=program.config.run.seed,
        epochs=None,
        max_steps=steps,
        **_schedule(program.config),
    )


def chosen(state: State, program: Program, chain: str) -> str:
    """The best of a chain by validation greedy, the warm-up policy included; ties to the later."""
    names = ["warmup", *(f"{chain}/{t}" for t in range(program.config.evolve.iterations))]
    validation = program.config.data.validation
    return names[best_of([state.greedy(state.policies[name], validation) for name in names])]


def _next_final(state: State, program: Program) -> Step:
    final = chosen(state, program, "evolve")
    control = chosen(state, program, "control") if program.config.evolve.control else None
    for name, stage in ((control, "control"), (final, "final")):
        if name is not None:
            step = _measured(state, program, name, stage)
            if step is not None:
                return step
    return Finish("final/evaluate", final, control)


def retirable(state: State, keep: tuple[CheckpointRef | None, ...]) -> list[str]:
    """Checkpoints that no future job of this run continues from."""
    kept = {checkpoint.path for checkpoint in keep if checkpoint is not None}
    held = {job.checkpoint.path for job in state.jobs.values() if job.checkpoint is not None}
    return sorted(held - kept)
