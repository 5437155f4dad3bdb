"""Lineage: the policies, checkpoints, selections and settings that a job continues from."""

from __future__ import annotations

from typing import Any

from pipeline.config.schema import Config
from pipeline.errors import RunStopped
from pipeline.phases.steps import Record
from pipeline.refs import CheckpointRef, PolicyRef
from pipeline.run.events.training import JobSkipped
from pipeline.run.spec import RunSpec
from pipeline.run.state import State


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


def temperature_of(state: State, spec: RunSpec, iteration: int) -> float:
    """The temperature that an iteration samples at, which its log-probabilities are compared at
    and its row tells: that of the last search before it, else the one of the recipe."""
    chosen = [one["temperature"] for one in state.temperatures if one["iteration"] <= iteration]
    return float(chosen[-1]) if chosen else spec.config.generate.temperature


def skip_training(stage: str, job: str, policy: PolicyRef) -> Record:
    """In place of a job that has nothing to train on: the policy stays as it is."""
    note = f"{job}: nothing was selected, so nothing is trained"
    return Record(stage, JobSkipped(job, policy), note)


# What of `learn` decides what a job trains and does not differ from job to job. (Ranks and
# micro-batches deal the same batches out differently: the sum is the same, but for its last bits.)
HASHED = (
    "batch_size", "window", "beta1", "beta2", "epsilon", "weight_decay", "max_grad_norm",
    "precision",
)  # fmt: skip


def identity_of(state: State, config: Config) -> dict[str, Any]:
    """By which rule a job of this run has its key, and which settings that hashes."""
    if not state.job_rule:
        return {}
    asked = (("question", config.prompt.question), ("system", config.prompt.system))
    settings = asked + tuple((name, getattr(config.learn, name)) for name in HASHED)
    return {"rule": state.job_rule, "settings": settings}


def retirable(
    state: State, keep: tuple[CheckpointRef | None, ...], *, done: bool = True
) -> list[str]:
    """Checkpoints that no future job of this run continues from. done: also those that a job ended
    with, not only those inside one."""
    kept = {checkpoint.path for checkpoint in keep if checkpoint is not None}
    held = {
        job.checkpoint.path
        for job in state.jobs.values()
        if job.checkpoint is not None and (done or not job.done)
    }
    return sorted(held - kept)
