"""The estimators against brute force: enumeration, literal resampling, all pairs, simulation."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pipeline.metrics import auc as auc_module
from pipeline.metrics import intervals as metrics
from pipeline.metrics.auc import auc, auc_by_group
from pipeline.metrics.intervals import (
    Estimate,
    bootstrap_by_group,
    paired_difference,
    proportion,
    ratio_by_group,
    wilson,
)
from pipeline.metrics.pass_at_k import headroom, pass_at_k, pass_at_k_mean

# Coarse scores, so that ties are common.
scores = st.integers(0, 5).map(float)
shares = st.integers(0, 8).map(lambda eighths: eighths / 8)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_the_textbook_interval(case: tuple[int, int]) -> None:
    k, n = case
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_by_hand() -> None:
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_share(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="share"):
        wilson(k, n)


def test_an_estimate_cannot_be_changed_and_reads_well() -> None:
    estimate = proportion([True, False, True, True])
    assert (estimate.value, estimate.n, estimate.ci95) == (0.75, 4, wilson(3, 4))
    assert str(Estimate(0.5, 10, (0.25, 0.75))) == "0.500 [0.250, 0.750] n=10"
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimate.value = 1.0  # type: ignore[misc]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_one(
    correct_K: list[bool], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(correct_K)))
    subsets = list(itertools.combinations(correct_K, k))
    expected = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(correct_K), sum(correct_K), k) == pytest.approx(expected)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (0, 0, 1)])
def test_pass_at_k_refuses_more_than_was_sampled(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="Pass@k"):
        pass_at_k(n, c, k)


@st.composite
def grouped(draw: st.DrawFn, min_groups: int = 2) -> tuple[list[float], list[int]]:
    """Values with group labels, at least `min_groups` of them, in mixed order."""
    count = draw(st.integers(min_groups, 6))
    extra = draw(st.lists(st.integers(0, count - 1), max_size=10))
    groups = draw(st.permutations([*range(count), *extra]))
    values = draw(st.lists(shares, min_size=len(groups), max_size=len(groups)))
    return values, list(groups)


@given(grouped(), st.integers(0, 2**32))
def test_a_replicate_is_the_mean_of_literally_repeated_questions(
    data: tuple[list[float], list[int]], seed: int
) -> None:
    values, groups = data
    labels = list(dict.fromkeys(groups))
    times_R_G = np.concatenate(list(metrics.resamples(len(labels), len(labels), seed, 50)))
    assert (times_R_G.sum(axis=1) == len(labels)).all()
    means = []
    for times_G in times_R_G:
        times = dict(zip(labels, times_G, strict=True))
        repeated = [v for v, g in zip(values, groups, strict=True) for _ in range(int(times[g]))]
        means.append(sum(repeated) / len(repeated))
    estimate = bootstrap_by_group(values, groups, seed=seed, reps=50)
    assert estimate.ci95 == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert estimate.value == pytest.approx(sum(values) / len(values))
    assert estimate.n == len(values)


def test_every_resample_of_groups_is_equally_likely() -> None:
    times_R_G = np.concatenate(list(metrics.resamples(3, 3, 7, 27_000)))
    draws = [tuple(np.bincount(d, minlength=3)) for d in itertools.product(range(3), repeat=3)]
    for times in set(draws):
        seen = (times_R_G == times).all(axis=1).sum()
        assert seen == pytest.approx(1000 * draws.count(times), rel=0.15)


@given(grouped(), st.integers(0, 2**32))
def test_names_of_groups_do_not_matter_and_seeds_repeat(
    data: tuple[list[float], list[int]], seed: int
) -> None:
    values, groups = data
    first = bootstrap_by_group(values, groups, seed=seed, reps=40)
    assert first == bootstrap_by_group(values, [f"image {g}" for g in groups], seed=seed, reps=40)


def test_blocks_of_replicates_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = np.random.default_rng(0).random(30), [i % 10 for i in range(30)]
    whole = bootstrap_by_group(values, groups, seed=3, reps=500)
    monkeypatch.setattr(metrics, "_BLOCK", 70)
    assert bootstrap_by_group(values, groups, seed=3, reps=500) == whole
    assert bootstrap_by_group(values, groups, seed=4, reps=500) != whole


def test_asking_the_same_image_ten_times_adds_no_information() -> None:
    values = np.random.default_rng(1).random(40)
    once = bootstrap_by_group(values, list(range(40)), seed=0)
    tenfold = bootstrap_by_group(np.repeat(values, 10), list(np.repeat(range(40), 10)), seed=0)
    assert tenfold.ci95 == pytest.approx(once.ci95)
    as_if_independent = bootstrap_by_group(np.repeat(values, 10), list(range(400)), seed=0)
    assert np.diff(as_if_independent.ci95) < 0.5 * np.diff(once.ci95)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    groups = [g for g in range(60) for _ in range(4)]
    covered = by_question = 0
    for trial in range(300):
        # Every image has its own difficulty, uniform: the true accuracy is 0.5.
        hits = (rng.random(240) < np.repeat(rng.random(60), 4)).astype(float)
        low, high = bootstrap_by_group(hits, groups, seed=trial, reps=400).ci95
        covered += low <= 0.5 <= high
        low, high = bootstrap_by_group(hits, list(range(240)), seed=trial, reps=400).ci95
        by_question += low <= 0.5 <= high
    assert 0.91 <= covered / 300 <= 0.98
    assert by_question < covered - 15


def test_one_group_tells_nothing_about_others() -> None:
    one = ["image"] * 3
    assert paired_difference([1, 1, 0], [0, 1, 0], one, seed=0).ci95 == (-1.0, 1.0)
    with pytest.raises(ValueError, match="at least two"):
        bootstrap_by_group([1.0, 2.0, 3.0], one, seed=0)


def test_a_paired_difference_ignores_what_both_share() -> None:
    rng = np.random.default_rng(3)
    hard = rng.random(400)
    a = (hard < 0.6).astype(float)
    b = (hard < 0.5).astype(float)
    questions = list(range(400))
    paired = paired_difference(a, b, questions, seed=0)
    assert paired.value == pytest.approx(a.mean() - b.mean())
    shuffled = paired_difference(a, rng.permutation(b), questions, seed=0)
    assert np.diff(paired.ci95) < 0.6 * np.diff(shuffled.ci95)
    swapped = paired_difference(b, a, questions, seed=0)
    assert swapped.ci95 == pytest.approx((-paired.ci95[1], -paired.ci95[0]))
    assert paired_difference(a, a, questions, seed=0) == Estimate(0.0, 400, (0.0, 0.0))


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        paired_difference([1, 0], [1], [0, 1], seed=0)
    with pytest.raises(ValueError, match="equally long"):
        bootstrap_by_group([], [], seed=0)


@given(grouped(), st.data())
def test_headroom_is_pass_at_k_less_greedy(
    data: tuple[list[float], list[int]], draw: st.DataObject
) -> None:
    groups = data[1]
    row_K = st.lists(st.booleans(), min_size=4, max_size=4)
    correct_Q_K = draw.draw(st.lists(row_K, min_size=len(groups), max_size=len(groups)))
    greedy = [row_K[0] for row_K in correct_Q_K]
    for k in (1, 2, 4):
        gap = headroom(correct_Q_K, greedy, groups, k, seed=0, reps=20)
        share = pass_at_k_mean(correct_Q_K, groups, k, seed=0, reps=20)
        assert gap.value == pytest.approx(share.value - sum(greedy) / len(greedy))
        assert gap.ci95[0] <= gap.ci95[1]
    # Of all four samples: simply whether there is a correct one.
    assert share.value == pytest.approx(np.mean([any(row_K) for row_K in correct_Q_K]))


def test_a_ratio_is_of_sums_and_needs_a_denominator() -> None:
    estimate = ratio_by_group([1, 0, 3], [2, 0, 4], ["a", "b", "c"], seed=0)
    assert estimate.value == pytest.approx(4 / 6)
    assert pytest.approx(estimate.ci95) == (0.5, 0.75)
    with pytest.raises(ValueError, match="no ratio"):
        ratio_by_group([1, 2], [0, 0], ["a", "b"], seed=0)


def auc_of_all_pairs(pos: list[float], neg: list[float]) -> float:
    wins = [(p > n) + 0.5 * (p == n) for p in pos for n in neg]
    return sum(wins) / len(wins)


@given(st.lists(scores, min_size=1, max_size=12), st.lists(scores, min_size=1, max_size=12))
def test_auc_counts_all_pairs_and_ties_by_half(pos: list[float], neg: list[float]) -> None:
    assert auc(pos, neg) == pytest.approx(auc_of_all_pairs(pos, neg))
    assert auc(neg, pos) == pytest.approx(1 - auc(pos, neg))


def test_auc_needs_both_classes_and_real_scores() -> None:
    with pytest.raises(ValueError, match="both classes"):
        auc([1.0], [])
    with pytest.raises(ValueError, match="NaN"):
        auc([1.0, float("nan")], [0.0])


@given(grouped(), st.data())
def test_a_weighted_auc_is_that_of_literally_repeated_items(
    data: tuple[list[float], list[int]], draw: st.DataObject
) -> None:
    values, groups = data
    size = len(values)
    positive = draw.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    times = draw.draw(st.lists(st.integers(0, 3), min_size=6, max_size=6))
    repeated = [
        (value, is_positive)
        for value, group, is_positive in zip(values, groups, positive, strict=True)
        for _ in range(times[group])
    ]
    pos = [value for value, is_positive in repeated if is_positive]
    neg = [value for value, is_positive in repeated if not is_positive]
    weighted = auc_module._weighted_auc(np.array(values), np.array(positive), np.array(groups))
    (result,) = weighted(np.array([times], dtype=float))
    if pos and neg:
        assert result == pytest.approx(auc_of_all_pairs(pos, neg))
    else:
        assert np.isnan(result)


def test_auc_by_group_averages_within_strata() -> None:
    rng = np.random.default_rng(4)
    family = np.repeat(["sum", "largest"], 300)
    positive = rng.random(600) < 0.5
    # A score that tells families apart and nothing within them, then one that tells steps apart.
    between = np.where(family == "sum", 1.0, 0.0) + 0.01 * rng.random(600)
    positive[family == "sum"] |= rng.random(300) < 0.7
    images = [i // 3 for i in range(600)]
    pooled = auc_by_group(between, positive, images, seed=0, reps=500)
    within = auc_by_group(between, positive, images, seed=0, reps=500, strata_Q=list(family))
    assert pooled.ci95[0] > 0.55
    assert within.ci95[0] < 0.5 < within.ci95[1]
    parts = [
        auc(between[(family == f) & positive], between[(family == f) & ~positive])
        for f in ("sum", "largest")
    ]
    assert within.value == pytest.approx(np.mean(parts))
    assert within.n == 600


def test_auc_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(200):
        # Of each image one step is true and one false, and both scores share the image's offset.
        offset = rng.normal(size=50)
        pos, neg = offset + rng.normal(size=50) + 2**0.5, offset + rng.normal(size=50)
        truth = 0.7602  # of steps of two images: P(N(sqrt 2, variance 4) > 0)
        low, high = auc_by_group(
            np.r_[pos, neg], [True] * 50 + [False] * 50, [*range(50)] * 2, seed=trial, reps=300
        ).ci95
        covered += low <= truth <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_an_interval_over_seeds_is_students_t() -> None:
    found = metrics.over_seeds([0.007, 0.124, 0.165])
    assert found.n == 3
    assert found.value == pytest.approx(0.098667, abs=1e-6)
    half = 4.302653 * 0.0819872 / 3**0.5  # the table of a textbook, two degrees of freedom
    assert found.ci95 == pytest.approx((0.098667 - half, 0.098667 + half), abs=1e-5)
    with pytest.raises(ValueError, match="two seeds"):
        metrics.over_seeds([0.1])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12))
def test_an_interval_over_seeds_agrees_with_scipy(values: list[float]) -> None:
    from scipy.stats import t

    found, n = metrics.over_seeds(values), len(values)
    half = t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    low, high = float(np.mean(values) - half), float(np.mean(values) + half)
    assert found.ci95 == pytest.approx((low, high))
