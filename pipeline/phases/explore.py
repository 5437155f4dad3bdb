"""The explore phase: what a policy can do across temperatures, and the one that comes next.

Before iteration t, where one is due, on validation questions:

    samples at each temperature ──► the temperature from t on ──► the policy's dynamics ──► evolve

A search (`explore`) compares the temperatures near the last choice; dynamics describe the policy on
a grid of their own. Both sample through the same shards, keyed by content: what both ask for is
sampled once. With neither, which is the default, the phase has never a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.config.schema import Dynamics, Explore
from pipeline.config.selecting import RankedBy
from pipeline.generation.temperature import Decision, narrowed
from pipeline.phases.lineage import policy_before, temperature_of
from pipeline.phases.methods import stops_because
from pipeline.phases.prm import NAME, prm_in_use
from pipeline.phases.steps import ChooseTemperature, EvaluateDynamics, SampleShards, Step
from pipeline.refs import ShardSet
from pipeline.run.events.exploration import DynamicsEvaluated, TemperatureChosen
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.stages.explore import AtTemperature, DynamicsTask, SearchTask
from pipeline.stages.score import Scoring

GREEDY_T = 0.0


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """What is due before the next iteration (dynamics, also after the last one)."""
    t = len(state.iterations)
    return _search(state, spec, t) or _dynamics(state, spec, t)


def _search(state: State, spec: RunSpec, t: int) -> Sequence[Step]:
    explore = spec.config.explore
    if not _due(t, explore.every, state.temperatures) or stops_because(state, spec) is not None:
        return ()
    stage, ranked = f"explore/{t}", explore.by == "reward_pass_2"
    grid = search_grid(state, spec, t)
    sampling = _sampling(state, spec, stage, grid, explore)
    return _unsampled(state, sampling) or (
        ChooseTemperature(
            f"{stage}/decide",
            iteration=t,
            policy=policy_before(state, t),
            today=temperature_of(state, spec, t),
            figure=explore.by,
            mode=explore.mode,
            ranked_by=ranked_by(state, spec) if ranked else None,
            samples=explore.samples,
            seed=spec.config.run.seed,
            purposes=tuple(zip(grid, (step.purpose for step in sampling), strict=True)),
        ),
    )


def _dynamics(state: State, spec: RunSpec, t: int) -> Sequence[Step]:
    dynamics = spec.config.dynamics
    if not _due(t, dynamics.every, state.dynamics):
        return ()
    stage, grid = f"dynamics/{t}", (GREEDY_T, *sorted(dynamics.grid))
    sampling = _sampling(state, spec, stage, grid, dynamics)
    return _unsampled(state, sampling) or (
        EvaluateDynamics(
            f"{stage}/evaluate",
            iteration=t,
            policy=policy_before(state, t),
            ranked_by=ranked_by(state, spec),
            purposes=tuple(zip(grid, (step.purpose for step in sampling), strict=True)),
        ),
    )


def _due(t: int, every: int, done: Iterable[dict[str, object]]) -> bool:
    return every > 0 and t % every == 0 and all(one["iteration"] != t for one in done)


def search_grid(state: State, spec: RunSpec, t: int) -> tuple[float, ...]:
    """The temperatures that the search before an iteration compares, today's among them: all of the
    grid the first time, later those near the last choice."""
    explore, today = spec.config.explore, temperature_of(state, spec, t)
    every = tuple(sorted({*explore.grid, today}))
    if not state.temperatures or explore.nearest is None:
        return every
    return narrowed(every, today, explore.nearest)


def _sampling(
    state: State, spec: RunSpec, stage: str, grid: Sequence[float], asked: Explore | Dynamics
) -> list[SampleShards]:
    """A step for each temperature; 0: greedy answers."""
    policy, scoring = policy_before(state, len(state.iterations)), _scoring(state, spec)
    steps = []
    for temperature in grid:
        specs = spec.exploration_specs(policy, temperature, asked.samples, asked.queries)
        scored = scoring if temperature else None
        purpose = ShardSet(specs[0].purpose)
        steps.append(
            SampleShards(f"{stage}/generate", purpose, specs, policy, rule=None, scoring=scored)
        )
    return steps


def _unsampled(state: State, steps: Sequence[SampleShards]) -> Sequence[SampleShards]:
    """Those that are not over: all side by side, so that no engine waits for the slowest shard of a
    temperature."""
    return tuple(step for step in steps if step.purpose not in state.closed)


def ranked_by(state: State, spec: RunSpec) -> RankedBy | None:
    """What Reward-Pass@k ranks by: the PRM in use; without one, what ranks for selection in its
    place at no cost, else the log-likelihood. None: this recipe ranks nothing."""
    select = spec.config.select
    if prm_in_use(state):
        return "prm"
    if select.by in ("logprob", "length"):
        return select.by
    return "logprob" if select.reward == "prm" else None


def _scoring(state: State, spec: RunSpec) -> Scoring | None:
    """What is scored of these samples, whatever is scored of training shards: with a PRM, all,
    where anything asks for Reward-Pass@k. One answer for a search and for dynamics, which share
    shards."""
    explore, dynamics = spec.config.explore, spec.config.dynamics
    asked = dynamics.every or (explore.every and explore.by == "reward_pass_2")
    if not asked or not prm_in_use(state):
        return None
    return Scoring(state.policies[NAME], "all", spec.config.prm.aggregate)


# --- from a step to its task, and from its answer to the event ------------------------------------


def search_task(step: ChooseTemperature, state: State) -> SearchTask:
    """The shards of a search as the run's state has them, and how it is decided."""
    return SearchTask(
        step.figure,
        step.mode,
        step.ranked_by,
        step.samples,
        step.today,
        step.seed,
        _stored(step.purposes, state),
    )


def temperature_chosen(step: ChooseTemperature, found: Decision) -> TemperatureChosen:
    """The event of a decision."""
    plain = found.to_dict()
    return TemperatureChosen(
        iteration=step.iteration,
        version=step.policy.version,
        temperature=found.temperature,
        today=found.today,
        mode=found.by,
        figure=step.figure,
        ranked_by=step.ranked_by,
        samples=step.samples,
        curve=plain["curve"],
        gains=plain["gains"],
    )


def dynamics_task(step: EvaluateDynamics, state: State) -> DynamicsTask:
    """The shards of a policy's dynamics as the run's state has them."""
    greedy, *sampled = _stored(step.purposes, state)
    return DynamicsTask(step.ranked_by, greedy, tuple(sampled))


def dynamics_evaluated(
    step: EvaluateDynamics, rows: Mapping[str, Mapping[str, Any]]
) -> DynamicsEvaluated:
    """The event of a policy's figures."""
    plain = {temperature: dict(row) for temperature, row in rows.items()}
    return DynamicsEvaluated(step.iteration, step.policy.version, step.ranked_by, plain)


def _stored(purposes: Sequence[tuple[float, ShardSet]], state: State) -> tuple[AtTemperature, ...]:
    return tuple(AtTemperature.of(t, state.shards[purpose]) for t, purpose in purposes)
