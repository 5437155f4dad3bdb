"""Searches and dynamics in words and tables, and the notice that a policy is saturated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metrics.dynamics import saturation
from pipeline.reports.tables import interval, percent
from pipeline.run.state import State

RANKED_BY = {"prm": "process reward", "logprob": "log-likelihood", "length": "shortness"}


def figure_name(chosen: Mapping[str, Any]) -> str:
    """What a search was to maximise, in words."""
    if chosen["figure"] == "pass_at_k":
        return f"Pass@{chosen['samples']}"
    return f"Reward-Pass@2 of {chosen['samples']} by {RANKED_BY[chosen['ranked_by']]}"


def decision_line(chosen: Mapping[str, Any]) -> str:
    """A search's result: the temperature, the figure there, and why it moved or stayed.

    chosen: as the run's state holds it.
    """
    today, temperature = f"{chosen['today']:g}", f"{chosen['temperature']:g}"
    one = chosen["curve"][temperature]
    line = (
        f"iteration {chosen['iteration']} is sampled at T = {temperature}: {figure_name(chosen)} "
        f"is {percent(one['value'])} % {interval(one['ci95'])} there, n = {one['n']}"
    )
    if temperature != today:
        gain = chosen["gains"][temperature]
        least = "" if gain["bound"] is None else f", at least {100 * gain['bound']:.1f}"
        return f"{line}; before it was T = {today}, {100 * gain['gain']:.1f} points less{least}"
    best = max(chosen["gains"], key=lambda t: chosen["gains"][t]["gain"])
    gain = chosen["gains"][best]
    if gain["bound"] is None or gain["gain"] <= 0:
        return f"{line}; no other temperature is above"
    return (
        f"{line}; T = {best} is {100 * gain['gain']:.1f} points above, which may be chance (at "
        f"least {100 * gain['bound']:.1f})"
    )


def curve_table(chosen: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each search: the figure at each temperature, today's in brackets,
    what was chosen with an asterisk."""
    grid = sorted({t for one in chosen for t in one["curve"]}, key=float)
    rows = [["iteration", "figure", *(f"T = {t}" for t in grid)]]
    for one in chosen:
        cells = []
        for t in grid:
            cell = percent(one["curve"][t]["value"]) if t in one["curve"] else "-"
            cell = f"({cell})" if t == f"{one['today']:g}" else cell
            cells.append(f"{cell}*" if t == f"{one['temperature']:g}" else cell)
        rows.append([str(one["iteration"]), figure_name(one), *cells])
    return rows


def dynamics_table(evaluated: Mapping[str, Any]) -> list[list[str]]:
    """A header and a line for each temperature of one policy's dynamics."""
    first = next(iter(evaluated["rows"].values()))
    k = max(first["pass_at"], key=int)
    ranked = "reward_pass_at" in first
    header = ["T", "greedy %", "pass@1 %", f"pass@{k} % [95 %]", f"pass@{k} - greedy [95 %]"]
    header += ["reward-pass@2 % [95 %]", "of distinct %"] if ranked else []
    rows = [[*header, "answers", "chains", "tokens", "entropy"]]
    for temperature, row in evaluated["rows"].items():
        cells = [
            temperature,
            percent(row["greedy"]["value"]),
            percent(row["pass_at"]["1"]["value"]),
        ]
        cells += [_with_interval(row["pass_at"][k]), _with_interval(row["headroom"][k])]
        if ranked:
            both = row["reward_pass_at"]["2"]
            cells += [_with_interval(both["sampled"]), percent(both["distinct"]["value"])]
        cells += [f"{row[name]['value']:.1f}" for name in ("answers", "chains", "tokens")]
        rows.append([*cells, f"{row['entropy']['value']:.3f}"])
    return rows


def _with_interval(estimate: Mapping[str, Any]) -> str:
    return f"{percent(estimate['value'])} {interval(estimate['ci95'])}"


def saturation_notices(state: State) -> list[str]:
    """Why more iterations may teach nothing, by the dynamics so far; empty where they may.

    By the temperature of the grid that is nearest to the one of the last iteration.
    """
    if not state.dynamics:
        return []
    in_force = state.temperatures[-1]["temperature"] if state.temperatures else None
    if in_force is None:
        in_force = (state.config or {})["generate"]["temperature"]
    last = state.dynamics[-1]
    nearest = min(last["rows"], key=lambda t: (abs(float(t) - in_force), float(t)))
    rows = [one["rows"][nearest] for one in state.dynamics if nearest in one["rows"]]
    where = f"after {last['iteration']} iterations, at T = {nearest}"
    return [f"saturation {where}: {why}" for why in saturation(rows)]
