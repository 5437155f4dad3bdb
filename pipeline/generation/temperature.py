"""Which temperature the next iterations are sampled at: the paper's automatic balancing.

Every few iterations the validation questions are sampled at each temperature of a grid, and the
figure that is to be maximal (Reward-Pass@2, or Pass@K) is computed for each. Two ways to decide:

* `argmax`, the paper's: the temperature with the highest figure. On a flat curve it moves with the
  noise: at 250 questions Reward-Pass@2 has a standard error of 3 points.
* `sound`: stay, unless a temperature is better than today's by more than the comparison can be
  wrong by. Temperatures are compared on the same questions, whose samples have the same seeds at
  every temperature (common random numbers), in pairs, by groups of questions that share images; the
  bounds hold for all temperatures of the grid together (family-wise), so on a flat curve it stays
  in 95 of 100 searches, however many temperatures are tried.

What always holds: a decision is a function of the hits, the groups and a seed; it carries the whole
curve that it was made from.

Axes: Q questions, T temperatures, G groups of questions that share images, R replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config.schema import Config, DecideBy
from pipeline.errors import BadConfig
from pipeline.metrics.intervals import (
    REPLICATES,
    Estimate,
    Floats,
    Groups,
    as_json,
    group_index,
    resamples,
)

LEVEL = 0.975
"""Of the bounds of all temperatures together: the lower ends of two-sided 95 % intervals."""
POWER = 0.8
"""Chance to see a gain that `least_queries` asks for."""
DISCORDANT = 0.15
"""Share of questions whose hit differs between two temperatures under common random numbers, as
planned with; what it is in fact comes out of the search."""


@dataclass(frozen=True)
class Decision:
    """A temperature, and the whole curve that it was chosen by.

    curve: for each temperature the figure with its own interval. gains: for each other temperature
    the paired difference to today's, and `bound`, the least that it is, for all of them together
    (None by argmax). moved: whether it is another than today's.
    """

    temperature: float
    by: DecideBy
    today: float
    curve: Mapping[float, Estimate]
    gains: Mapping[float, tuple[float, float | None]]

    @property
    def moved(self) -> bool:
        """Whether the temperature changes."""
        return self.temperature != self.today

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON form; temperatures are text, as JSON's keys are."""
        return {
            "temperature": self.temperature,
            "by": self.by,
            "today": self.today,
            "curve": {f"{t:g}": as_json(one) for t, one in self.curve.items()},
            "gains": {
                f"{t:g}": {"gain": gain, "bound": bound} for t, (gain, bound) in self.gains.items()
            },
        }


def decide(
    hits_T_Q: Mapping[float, Sequence[float]],
    groups_Q: Groups,
    today: float,
    by: DecideBy,
    *,
    seed: int,
    reps: int = REPLICATES,
) -> Decision:
    """The temperature for the next iterations.

    Args:
        hits_T_Q: for each temperature of the grid, today's among them, the figure of each question
            (in [0, 1]), all in one order.
        groups_Q: which questions share images.

    Raises:
        ValueError: today's temperature is not in the grid, or it is alone there; all questions
            are one group.
    """
    if today not in hits_T_Q or len(hits_T_Q) < 2:
        raise ValueError(f"a search needs today's temperature, {today:g}, and another in its grid")
    grid = sorted(hits_T_Q)
    found = _searched(np.array([hits_T_Q[t] for t in grid], dtype=float).T, groups_Q,
                      grid.index(today), seed, reps)  # fmt: skip
    curve = dict(zip(grid, found.curve_T, strict=True))
    others = [t for t in grid if t != today]
    gain_T = {t: curve[t].value - curve[today].value for t in others}
    if by == "argmax":
        best = max(grid, key=lambda t: (curve[t].value, -abs(t - today), -t))
        return Decision(best, by, today, curve, {t: (gain_T[t], None) for t in others})
    bound_T = dict(zip(others, found.bounds_T, strict=True))
    better = [t for t in others if bound_T[t] > 0.0]
    best = max(better, key=lambda t: (gain_T[t], -abs(t - today)), default=today)
    return Decision(best, by, today, curve, {t: (gain_T[t], bound_T[t]) for t in others})


@dataclass(frozen=True)
class _Searched:
    """The figure of every temperature, and the bounds of the differences of all but today's."""

    curve_T: list[Estimate]
    bounds_T: list[float]


def _searched(hits_Q_T: Floats, groups_Q: Groups, today: int, seed: int, reps: int) -> _Searched:
    """Curve and bounds from one set of replicates that resample whole groups, the same ones for all
    temperatures.

    A bound is the mean difference minus a common multiple of its standard error; the multiple is
    the quantile of the largest studentised error of all temperatures together, so that curves which
    move together are not paid for twice.
    """
    from scipy.special import stdtrit

    index_Q, count_G = group_index(groups_Q)
    if count_G < 2:
        raise ValueError("one group of images says nothing about others: a search needs two")
    sums_G_T = np.zeros((count_G, hits_Q_T.shape[1]))
    np.add.at(sums_G_T, index_Q, hits_Q_T)
    size_G = np.bincount(index_Q, minlength=count_G).astype(float)
    mean_T = sums_G_T.sum(axis=0) / size_G.sum()
    gains_G_T = np.delete(sums_G_T - sums_G_T[:, [today]], today, axis=1)
    gain_T = gains_G_T.sum(axis=0) / size_G.sum()
    error_T = _standard_error(np.ones((1, count_G)), gains_G_T, size_G, gain_T[np.newaxis])[0]
    worst, means = [], []
    for times_R_G in resamples(count_G, sums_G_T.size, seed, reps):
        total_R = (times_R_G @ size_G)[:, np.newaxis]
        means.append((times_R_G @ sums_G_T) / total_R)
        gain_R_T = (times_R_G @ gains_G_T) / total_R
        error_R_T = _standard_error(times_R_G, gains_G_T, size_G, gain_R_T)
        with np.errstate(divide="ignore", invalid="ignore"):
            off_R_T = np.where(error_R_T > 0, (gain_R_T - gain_T) / error_R_T, 0.0)
        worst.append(off_R_T.max(axis=1))
    # Few groups resample to few values: never less than one comparison by Student's t.
    multiple = max(float(stdtrit(count_G - 1, LEVEL)), float(np.quantile(np.hstack(worst), LEVEL)))
    low_T, high_T = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    ends = zip(mean_T, low_T, high_T, strict=True)
    curve = [Estimate(float(m), len(hits_Q_T), (float(a), float(b))) for m, a, b in ends]
    # Two curves that are one give a difference of 0 without an error: no gain.
    pairs = zip(gain_T, error_T, strict=True)
    return _Searched(curve, [float(gain - multiple * error) for gain, error in pairs])


def _standard_error(
    times_R_G: Floats, sums_G_T: Floats, size_G: Floats, mean_R_T: Floats
) -> Floats:
    """Of a mean over questions in groups (linearised ratio, sandwich by group), by replicate."""
    total_R = times_R_G @ size_G
    # sum over groups of times * (sum - size * mean)^2, expanded so that it is matrix products.
    squares = times_R_G @ (sums_G_T**2)
    cross = times_R_G @ (sums_G_T * size_G[:, np.newaxis])
    sizes = (times_R_G @ size_G**2)[:, np.newaxis]
    spread = np.maximum(squares - 2 * mean_R_T * cross + mean_R_T**2 * sizes, 0.0)
    count = times_R_G.sum(axis=1)[:, np.newaxis]
    result: Floats = np.sqrt(spread * count / np.maximum(count - 1, 1)) / total_R[:, np.newaxis]
    return result


def narrowed(grid: Sequence[float], today: float, most: int) -> tuple[float, ...]:
    """The `most` temperatures of a grid that lie nearest to today's, which is among them."""
    nearest = sorted({*grid, today}, key=lambda t: (abs(t - today), t))
    return tuple(sorted(nearest[:most]))


def least_queries(gain: float, temperatures: int) -> int:
    """How many validation questions see a gain (a share) in `POWER` of the searches over so many
    temperatures, by the sound rule; a question for an image of its own each."""
    from scipy.special import ndtri

    compared = max(1, temperatures - 1)
    needed = float(ndtri(1 - (1 - LEVEL) / compared) + ndtri(POWER))
    return math.ceil(needed**2 * (DISCORDANT - gain**2) / gain**2)


def check_precision(config: Config, validation: int) -> None:
    """Refuse a search that would not see the gain it is asked for, before anything is sampled.

    validation: labelled questions that the validation split has.

    Raises:
        BadConfig: saying how many would do.
    """
    explore, data = config.explore, config.data
    if not explore.every or explore.mode != "sound":
        return
    limits = {
        "data.validation_queries": data.validation_queries,
        "explore.queries": explore.queries,
    }
    queries = min([validation, *(limit for limit in limits.values() if limit is not None)])
    temperatures = len({*explore.grid, config.generate.temperature})
    needed = least_queries(explore.gain, temperatures)
    if queries >= needed:
        return
    by_limit = [key for key, limit in limits.items() if limit == queries]
    where = f"{by_limit[0]} = {queries}" if by_limit else f"{queries} in {data.validation!r}"
    seen = next(gain / 100 for gain in range(1, 101) if least_queries(gain / 100, temperatures)
                <= queries or gain == 100)  # fmt: skip
    raise BadConfig(
        f"too few validation questions ({where}) to see a gain of {100 * explore.gain:g} points "
        f"(explore.gain) between {temperatures} temperatures in four searches of five: {needed} "
        f"would do. So few show {100 * seen:.0f} points (explore.gain={seen:g}); or compare fewer "
        "temperatures (explore.grid), or decide as the paper does, by the highest figure "
        "(explore.mode=argmax)"
    )
