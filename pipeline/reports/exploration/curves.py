"""A run's searches and dynamics as data of the paper's Figures 3 to 5, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.refs import ShardSet
from pipeline.reports.exploration.text import saturation_notices
from pipeline.run.state import State
from pipeline.run.stored import StoredRun

SEARCHES, DYNAMICS, ITERATIONS = "explore", "dynamics", "evolve"
"""The first word of the stages in which each samples."""


def exploration_report(run: StoredRun) -> dict[str, Any]:
    """Everything that a run has found out across temperatures, in plain JSON form.

    searches, dynamics: as the ledger holds them, with their intervals; iterations: temperature and
    validation greedy of each; cost: as of `exploration_cost`.
    """
    state, spec = run.state, run.spec
    return {
        "run": spec.config.run.name,
        "seed": spec.config.run.seed,
        "queries": len(spec.splits[spec.config.data.validation]),
        "searches": state.temperatures,
        "dynamics": state.dynamics,
        "iterations": [
            {name: row[name] for name in ("iteration", "temperature", "greedy", "ci95", "n")}
            for row in state.iterations
        ],
        "saturation": saturation_notices(state),
        "cost": exploration_cost(run.wires, state),
    }


def exploration_cost(
    events: Iterable[Mapping[str, Any]], state: State
) -> dict[str, dict[str, float]]:
    """Rollouts that this run sampled, and seconds (of sampling and deciding), for searches, for
    dynamics and for the iterations; `all` is the run's."""
    names = (SEARCHES, DYNAMICS, ITERATIONS)
    rollouts = dict.fromkeys((*names, "all"), 0)
    for event in events:
        if event["type"] == "shard_accepted" and not event["adopted"]:
            rollouts["all"] += event["rows"]
            first = event["stage"].partition("/")[0]
            if first in names[:2] or ShardSet(event["purpose"]).phase == ITERATIONS:
                rollouts[first] += event["rows"]
    seconds = dict.fromkeys((*names, "all"), 0.0)
    for stage, passed in state.stage_s.items():
        first = stage.partition("/")[0]
        seconds["all"] += passed
        if first in names[:2] or (first == ITERATIONS and stage.endswith("/generate")):
            seconds[first] += passed
    return {
        name: {"rollouts": rollouts[name], "seconds": round(seconds[name], 1)} for name in rollouts
    }


def cost_lines(cost: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The cost in words, one line for searches and one for dynamics, where there were any."""
    whole, lines = cost["all"], []
    for name, what in ((SEARCHES, "searches"), (DYNAMICS, "dynamics beyond what searches sampled")):
        one = cost[name]
        if one["rollouts"]:
            lines.append(
                f"{what}: {one['rollouts']:,.0f} rollouts of the run's {whole['rollouts']:,.0f} "
                f"(iterations {cost[ITERATIONS]['rollouts']:,.0f}), {one['seconds']:.0f} s of its "
                f"{whole['seconds']:.0f} s ({100 * one['seconds'] / whole['seconds']:.0f} %)"
            )
    return lines


def dynamics_csv(report: Mapping[str, Any]) -> list[list[str]]:
    """A header and a line for every figure: iterations done, temperature, figure, k, value, ends of
    its interval, questions."""
    rows = [["iterations", "temperature", "figure", "k", "value", "low", "high", "n"]]
    for one in report["dynamics"]:
        for temperature, row in one["rows"].items():
            for figure, k, estimate in _estimates(row):
                low, high = estimate["ci95"]
                numbers = (estimate["value"], low, high)
                cells = (str(one["iteration"]), temperature, figure, k)
                rows.append([*cells, *(f"{x:.6g}" for x in numbers), str(estimate["n"])])
    return rows


def _estimates(row: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for name in ("greedy", "answers", "chains", "tokens", "entropy"):
        yield name, "", row[name]
    for name in ("pass_at", "headroom"):
        for k, estimate in row[name].items():
            yield name, k, estimate
    for k, both in row.get("reward_pass_at", {}).items():
        yield "reward_pass_at", k, both["sampled"]
        yield "reward_pass_at_distinct", k, both["distinct"]
