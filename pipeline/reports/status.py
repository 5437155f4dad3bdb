"""What a run is doing and has done, in lines of text, from its ledger's state alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.phases.steps import SampleShards, Step, Train
from pipeline.reports.comparison import POLICIES, compared_policies
from pipeline.reports.exploration.text import curve_table, dynamics_table, saturation_notices
from pipeline.reports.summary import stage_seconds
from pipeline.reports.tables import interval, iteration_table, percent, text_table
from pipeline.run.events.lifecycle import PoolResized
from pipeline.run.state import ShardState, State


def step_line(step: Step, state: State) -> str:
    """A step that is due, how far it has come, and what it waits for."""
    if isinstance(step, SampleShards):
        shards = state.shards.get(step.purpose, {})
        return f"{step.stage}: {_shards_line(step, list(shards.values()))}"
    if isinstance(step, Train):
        job = state.jobs.get(step.job.name)
        saved = job.checkpoint.step if job is not None and job.checkpoint is not None else 0
        after = f", a checkpoint after optimizer step {saved}" if saved else ""
        return f"{step.stage}: waiting for the learner{after}"
    return step.stage


def _shards_line(step: SampleShards, shards: Sequence[ShardState]) -> str:
    total, graded = len(step.specs), sum(shard.done for shard in shards)
    waits = [("generation", total - len(shards)), ("grading", len(shards) - graded)]
    if step.scoring is not None:
        waits.append(("scoring", graded - sum(shard.scores is not None for shard in shards)))
    waiting = ", ".join(f"{count} for {role}" for role, count in waits if count)
    return f"{total} shards, {graded} graded; waiting: {waiting or 'none'}"


def pool_lines(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """How many engines and scorers were last asked for, why, and how that changed.

    events: of the ledger, in plain form.
    """
    sizes: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["type"] == PoolResized.type:
            sizes.setdefault(event["pool"], []).append(event)
    for pool, changes in sizes.items():
        last, most = changes[-1], max(change["after"] for change in changes)
        yield (
            f"{pool}s asked for: {last['after']} ({last['reason']}); {most} at most, changed "
            f"{len(changes)} times"
        )


def history_lines(state: State, width: int) -> Iterator[str]:
    """Iterations, evaluations, what is missing and where the time went.

    width: characters of a line at most, for tables.
    """
    if state.iterations:
        yield "\n" + text_table(iteration_table(state.iterations, width))
    if state.temperatures:
        yield "\n" + text_table(curve_table(state.temperatures))
    if state.dynamics:
        yield f"\nwhat the policy before iteration {state.dynamics[-1]['iteration']} can do:"
        yield text_table(dynamics_table(state.dynamics[-1]))
        yield from saturation_notices(state)
    evaluations = list(_evaluation_rows(state))
    if evaluations:
        yield "\n" + text_table([("policy", "split", "n", "accuracy % [95 %]"), *evaluations])
    if state.prm is not None:
        used = "used" if state.prm["used"] else "not used: " + "; ".join(state.prm["reasons"])
        yield f"\nprocess reward model: {used}"
    if state.bad_queries:
        yield f"\n{len(state.bad_queries)} queries are left out:"
        yield from (f"  {query[:16]}: {why}" for query, why in state.bad_queries.items())
    seconds = stage_seconds(state)
    if seconds:
        spent = ", ".join(f"{stage} {value:.0f}" for stage, value in seconds.items())
        yield f"\nseconds by stage, waiting included: {spent}"


def _evaluation_rows(state: State) -> Iterator[tuple[str, ...]]:
    """Each evaluated policy under its names; greedy accuracy, then Pass@K."""
    names: dict[str, list[str]] = {}
    for name, policy in state.policies.items():
        names.setdefault(policy.version, []).append(name)
    if state.finished is not None:
        for name, policy in compared_policies(state, state.finished).items():
            if name not in POLICIES[:2]:
                names[policy.version].append(name)
    for key, result in state.evaluations.items():
        version, split, _ = key.split("|")
        for figure, value, ci95 in _figures(result):
            shown = f"{figure} {percent(value)} {interval(ci95)}"
            yield ", ".join(names.get(version, [version])), split, str(result["n"]), shown


def _figures(result: Mapping[str, object]) -> Iterator[tuple[str, float, Sequence[float]]]:
    if "greedy" in result:
        yield "greedy", result["greedy"], result["ci95"]  # type: ignore[misc]
    passes = result.get("pass_at") or {}
    for k, estimate in list(passes.items())[-1:]:  # type: ignore[attr-defined]
        yield f"Pass@{k}", estimate["value"], estimate["ci95"]
