"""Plots of searches and dynamics, like the paper's Figures 3 to 5, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.runtime.figures import pyplot_of
from pipeline.reports.exploration.text import figure_name

Estimate = Mapping[str, Any]


def draw_exploration(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files drawn: what there is data for."""
    drawn = []
    if report["dynamics"]:
        drawn.append(_draw(folder / "figure3-headroom.png", report, _headroom))
        drawn.append(_draw(folder / "figure4-pass-at-k.png", report, _pass_at_k))
        first = next(iter(report["dynamics"][0]["rows"].values()))
        if "reward_pass_at" in first:
            drawn.append(_draw(folder / "figure5-reward-pass-2.png", report, _reward_pass))
    if report["searches"]:
        drawn.append(_draw(folder / "searches.png", report, _searches))
    return drawn


def _draw(path: Path, report: Mapping[str, Any], axes_of: Callable[[Any, Any], None]) -> Path:
    pyplot = pyplot_of()
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    axes.set_title(f"{report['run']}, validation, n = {report['queries']}")
    axes_of(axes, report)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path


def _line(axes: Any, xs: Sequence[float], estimates: Sequence[Estimate], **how: Any) -> None:
    """A curve in percent with its 95 % intervals as a band."""
    values = [100 * one["value"] for one in estimates]
    (line,) = axes.plot(xs, values, marker="o", **how)
    low, high = zip(*(one["ci95"] for one in estimates), strict=True)
    ends = [[100 * x for x in end] for end in (low, high)]
    axes.fill_between(xs, *ends, color=line.get_color(), alpha=0.12)


def _over_iterations(axes: Any, report: Mapping[str, Any], label: str) -> list[int]:
    done = [one["iteration"] for one in report["dynamics"]]
    axes.set_xticks(done)
    axes.set_xlabel("iterations done (0: warm-up)")
    axes.set_ylabel(f"{label}, 95 % intervals")
    return done


def _headroom(axes: Any, report: Mapping[str, Any]) -> None:
    """Greedy, Pass@K, and what is between them, at each temperature."""
    done = _over_iterations(axes, report, "percent")
    rows = [one["rows"] for one in report["dynamics"]]
    for number, temperature in enumerate(rows[0]):
        k = max(rows[0][temperature]["headroom"], key=int)
        gaps = [row[temperature]["headroom"][k] for row in rows]
        if number == 0:
            greedy = [row[temperature]["greedy"] for row in rows]
            _line(axes, done, greedy, label="greedy", color="black", linestyle="--")
        _line(axes, done, gaps, label=f"Pass@{k} − greedy, T = {temperature}")


def _pass_at_k(axes: Any, report: Mapping[str, Any]) -> None:
    """Pass@K at each temperature."""
    rows = [one["rows"] for one in report["dynamics"]]
    k = max(next(iter(rows[0].values()))["pass_at"], key=int)
    done = _over_iterations(axes, report, f"Pass@{k} in percent")
    for temperature in rows[0]:
        passes = [row[temperature]["pass_at"][k] for row in rows]
        _line(axes, done, passes, label=f"T = {temperature}")


def _reward_pass(axes: Any, report: Mapping[str, Any]) -> None:
    """Reward-Pass@2 at each temperature, as sampled."""
    done = _over_iterations(axes, report, "Reward-Pass@2 in percent")
    rows = [one["rows"] for one in report["dynamics"]]
    for temperature in rows[0]:
        two = [row[temperature]["reward_pass_at"]["2"]["sampled"] for row in rows]
        _line(axes, done, two, label=f"T = {temperature}")


def _searches(axes: Any, report: Mapping[str, Any]) -> None:
    """The figure against the temperature in each search; a star where it was chosen."""
    for one in report["searches"]:
        grid = sorted(one["curve"], key=float)
        chosen = f"{one['temperature']:g}"
        name = f"before iteration {one['iteration']}: T = {chosen}"
        _line(axes, [float(t) for t in grid], [one["curve"][t] for t in grid], label=name)
        axes.plot(
            [one["temperature"]],
            [100 * one["curve"][chosen]["value"]],
            marker="*",
            markersize=15,
            color=axes.lines[-1].get_color(),
        )
    axes.set_xlabel("temperature")
    axes.set_ylabel("percent, 95 % intervals")
    axes.set_title(figure_name(report["searches"][0]))


def draw_simulated(found: Mapping[str, Any], path: Path) -> None:
    """How often each rule moves on flat curves and with a true gain, and how it follows a drift."""
    pyplot = pyplot_of()
    figure, (flat, gain, drift) = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axes, name in ((flat, "flat"), (gain, "gain")):
        for rule in ("argmax", "sound"):
            shares = [100 * one[rule] for one in found[name].values()]
            axes.plot([int(x) for x in found[name]], shares, marker="o", label=rule)
        axes.set_ylabel(f"percent of {found['searches']} searches that move")
        axes.set_ylim(0, 100)
        axes.legend()
    flat.axhline(5, color="black", linestyle=":")
    flat.set_title(f"no temperature is better, n = {found['queries']}")
    flat.set_xlabel("temperatures compared")
    gain.axhline(80, color="black", linestyle=":")
    gain.set_title(f"another is better, 5 compared, n = {found['queries']}")
    gain.set_xlabel("true gain in points")
    drifts = found["drift"]
    steps = range(len(next(iter(drifts.values()))["optimum"]))
    drift.plot(steps, next(iter(drifts.values()))["optimum"], "k--", label="true optimum")
    for name, one in drifts.items():
        drift.step(steps, one["chosen"], where="mid", marker=".", label=name)
    drift.set_title("an optimum that drifts")
    drift.set_xlabel("search")
    drift.set_ylabel("temperature")
    drift.legend(fontsize="small")
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
