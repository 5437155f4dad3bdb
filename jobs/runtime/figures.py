"""Plots of what was measured, as PNG files; nothing is computed here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

VOTES = {"best": "best of N", "weighted": "PRM-weighted vote", "majority": "majority vote"}
CLASSES = (("right", "wrong"), ("top_2", "rest"))
TITLES = ("all responses", "correct responses")


def pyplot_of() -> Any:
    """matplotlib's pyplot, which draws into files only."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_votes(found: dict[str, Any], path: Path) -> None:
    """Accuracy of each vote against N, with its interval, and greedy as a line."""
    pyplot = pyplot_of()
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for how, label in VOTES.items():
        row = found["votes"][how]
        sizes = [int(size) for size in row]
        values = [100 * one["value"] for one in row.values()]
        (line,) = axes.plot(sizes, values, marker="o", label=label)
        low, high = zip(*(one["ci95"] for one in row.values()), strict=True)
        axes.fill_between(
            sizes, [100 * x for x in low], [100 * x for x in high], color=line.get_color(),
            alpha=0.15,
        )  # fmt: skip
    axes.axhline(100 * found["greedy"]["value"], color="black", linestyle="--", label="greedy")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.set_xlabel("N samples")
    axes.set_ylabel("accuracy in percent, 95 % intervals")
    axes.set_title(f"{found['policy']['name']}, {found['split']}, n = {found['questions']}")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def draw_scores(found: dict[str, Any], path: Path) -> None:
    """Histograms of the reward: correct and wrong responses, Top-2 and the rest of the correct."""
    pyplot = pyplot_of()
    figure, both = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, names, title in zip(both, CLASSES, TITLES, strict=True):
        for name in names:
            one = found["distributions"][name]
            if not one["responses"]:
                continue
            shares = [count / one["responses"] for count in one["counts"]]
            label = f"{name.replace('_', '-')} (n = {one['responses']})"
            axes.stairs(shares, one["edges"], fill=True, alpha=0.45, label=label)
        axes.set_xlabel(f"reward ({found['aggregate']} of step scores)")
        axes.set_ylabel("share of responses")
        axes.set_title(title)
        axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
