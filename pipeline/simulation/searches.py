"""Simulated searches for a temperature, on curves whose truth is known: what each rule does there.

A simulated policy nearly always or nearly never answers a question; two questions share an image,
and a question's luck is shared between temperatures in part, as samples with the same seeds do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.config.schema import DecideBy
from pipeline.generation.temperature import Decision, decide, narrowed

GRID = tuple(round(0.3 + 0.1 * step, 1) for step in range(14))
"""The paper's, 0.3 to 1.6."""
SHARED = 0.6
"""Correlation of a question's luck between temperatures: its samples have the same seeds there."""
TODAY = 0.9
QUERIES = 250

Curve = Callable[[float], float]
"""From a temperature to the true share of hits."""


class Simulated:
    """Validation questions of one policy, which can be searched at any temperatures."""

    def __init__(self, rng: np.random.Generator, queries: int = QUERIES) -> None:
        self.rng = rng
        self.groups = [q // 2 for q in range(queries)]
        image = np.repeat(rng.normal(size=(queries + 1) // 2), 2)[:queries]
        self.ease = 2.0 * (0.5**0.5 * image + 0.5**0.5 * rng.normal(size=queries))
        self.common = rng.normal(size=queries)

    def hits(self, mean: float) -> list[float]:
        """Of each question at a temperature where the share of hits is `mean`."""
        from scipy.special import ndtr

        chance = 1 / (1 + np.exp(-(self.ease - np.quantile(self.ease, 1 - mean)) * 3))
        chance = np.clip(chance + mean - chance.mean(), 0, 1)
        own = self.rng.normal(size=len(self.ease))
        luck = SHARED**0.5 * self.common + (1 - SHARED) ** 0.5 * own
        return [float(x) for x in ndtr(luck) < chance]

    def search(
        self,
        curve: Curve,
        grid: Sequence[float],
        today: float,
        seed: int,
        by: DecideBy = "sound",
    ) -> Decision:
        """What is decided there."""
        found = {t: self.hits(curve(t)) for t in grid}
        return decide(found, self.groups, today, by, seed=seed, reps=400)


def peaked(best: float, t: float, *, top: float = 0.55, slope: float = 0.25) -> float:
    """A curve that falls by `slope` for each unit of temperature away from its best."""
    return top - slope * abs(t - best)


def stepped(gain: float, t: float) -> float:
    """A curve on which 1.1 is better than `TODAY` by `gain`, and what is between by half of it."""
    return 0.52 - gain * min(1.0, abs(t - 1.1) / 0.2)


def decisions(curve: Curve, grid: Sequence[float], searches: int) -> list[Decision]:
    """Searches of as many policies, each by the sound rule, today's temperature being `TODAY`."""
    rng = np.random.default_rng(0)
    return [Simulated(rng).search(curve, grid, TODAY, seed) for seed in range(searches)]


def moves(found: Sequence[Decision]) -> dict[str, float]:
    """The share of these searches that leaves today's temperature, by the sound rule and by the
    highest figure of the same curves."""
    highest = [max(one.curve, key=lambda t: (one.curve[t].value, t == TODAY)) for one in found]
    return {
        "sound": float(np.mean([one.moved for one in found])),
        "argmax": float(np.mean([t != TODAY for t in highest])),
    }


def drift(queries: int, by: DecideBy, searches: int = 16, seed: int = 2) -> dict[str, list[float]]:
    """An optimum that drifts from 0.5 to 1.1 over twelve searches, and the temperatures that are
    chosen, each among the five of the grid that are nearest to the last one."""
    rng, today = np.random.default_rng(seed), 0.5
    optimum, chosen = [], []
    for number in range(searches):
        best = min(1.1, 0.5 + 0.05 * number)
        curve = partial(peaked, best)
        near = narrowed(GRID, today, 5)
        today = Simulated(rng, queries).search(curve, near, today, number, by).temperature
        optimum.append(best)
        chosen.append(today)
    return {"optimum": optimum, "chosen": chosen}


def simulated_searches(searches: int) -> dict[str, Any]:
    """How often each rule moves: on flat curves, by how many temperatures are compared; with a true
    gain, by its points, over five temperatures; and how each follows a drift."""
    five = GRID[4:9]
    grids = {2: (TODAY, 1.0), 5: five, 9: GRID[2:11], 14: GRID}
    flat = {str(n): moves(decisions(lambda t: 0.5, grid, searches)) for n, grid in grids.items()}
    gains = (0, 2, 4, 6, 8, 10, 12)
    gained = {
        str(points): moves(decisions(partial(stepped, points / 100), five, searches))
        for points in gains
    }
    followed: tuple[tuple[DecideBy, int], ...] = (
        ("sound", 1000),
        ("sound", QUERIES),
        ("argmax", QUERIES),
    )
    drifts = {f"{by}, n = {queries}": drift(queries, by) for by, queries in followed}
    return {
        "searches": searches,
        "queries": QUERIES,
        "shared": SHARED,
        "flat": flat,
        "gain": gained,
        "drift": drifts,
    }
