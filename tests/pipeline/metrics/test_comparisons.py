"""Comparisons over seeds against the textbook's formulas and every subset."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import t as student

from pipeline.metrics.comparisons import holm, paired_over_seeds

shares = st.integers(0, 1080).map(lambda k: k / 1080)
pairs = st.lists(st.tuples(shares, shares), min_size=2, max_size=12)
p_values = st.lists(st.floats(0.0, 1.0), max_size=7)


@given(pairs)
def test_a_paired_difference_is_the_textbooks(pairs_R: list[tuple[float, float]]) -> None:
    differences = [a - b for a, b in pairs_R]
    n, mean = len(pairs_R), sum(differences) / len(pairs_R)
    sd = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    assume(sd > 1e-9)
    found = paired_over_seeds(
        {seed: a for seed, (a, _) in enumerate(pairs_R)},
        {seed: b for seed, (_, b) in reversed(list(enumerate(pairs_R)))},
    )
    error = sd / math.sqrt(n)
    assert found.difference.value == pytest.approx(mean, abs=1e-12)
    assert found.difference.n == n
    half = student.ppf(0.975, n - 1) * error
    assert found.difference.ci95 == pytest.approx((mean - half, mean + half), abs=1e-9)
    assert found.p == pytest.approx(2 * student.sf(abs(mean) / error, n - 1), abs=1e-9)
    low, high = found.difference.ci95
    if abs(found.p - 0.05) > 1e-6:
        assert (found.p < 0.05) == (low > 0 or high < 0)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.1, 0.0)])
def test_equal_differences_have_no_variance_to_test_by(shift: float, p: float) -> None:
    b = {1: 0.3, 2: 0.5, 3: 0.4}
    found = paired_over_seeds({seed: value + shift for seed, value in b.items()}, b)
    assert found.p == p
    assert found.difference.value == pytest.approx(shift)


def test_other_seeds_are_no_pairs() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2\] and \[1, 3\]"):
        paired_over_seeds({1: 0.1, 2: 0.2}, {1: 0.1, 3: 0.2})
    with pytest.raises(ValueError, match="two seeds or more"):
        paired_over_seeds({1: 0.1}, {1: 0.2})


@given(p_values)
def test_holm_is_bonferroni_on_every_subset(p_C: list[float]) -> None:
    """The closure of Bonferroni's test: what holds a hypothesis up is its worst subset."""
    everything = range(len(p_C))
    subsets = [s for size in everything for s in combinations(everything, size + 1)]
    slow = [
        max(min(1.0, len(s) * min(p_C[j] for j in s)) for s in subsets if i in s)
        for i in everything
    ]
    assert holm(p_C) == pytest.approx(slow)
