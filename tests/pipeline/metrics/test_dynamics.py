"""The dynamics row beside brute force, and when it says that nothing is left."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics.dynamics import Samples, dynamics_row, reward_hits, saturation

REPS = 100


@st.composite
def questions(draw: st.DrawFn) -> list[Samples]:
    k = draw(st.sampled_from([1, 2, 3, 4]))
    size: dict[str, Any] = {"min_size": k, "max_size": k}

    def one() -> Samples:
        texts = draw(st.lists(st.sampled_from("abc"), **size))
        right = {text: draw(st.booleans()) for text in "abc"}
        scores = {text: draw(st.sampled_from([None, 0.2, 0.5, 0.9])) for text in "abc"}
        tokens = draw(st.lists(st.integers(1, 9), **size))
        return Samples(
            draw(st.booleans()),
            tuple(right[text] for text in texts),
            tuple(texts),
            tuple(None if text == "c" else "ab".index(text) for text in texts),
            tuple(tokens),
            tuple(-0.5 * count for count in tokens),
            tuple(scores[text] for text in texts),
        )

    return [one() for _ in range(draw(st.integers(1, 4)))]


def best(sample: Samples, k: int, distinct: bool) -> bool:
    """By sorting places, the plain way."""
    assert sample.rewards_K is not None
    places = list(range(len(sample.texts_K)))
    if distinct:
        places = [i for i in places if sample.texts_K[i] not in sample.texts_K[:i]]
    key = {i: -1.0 if sample.rewards_K[i] is None else sample.rewards_K[i] for i in places}
    order = sorted(places, key=lambda i: (-(key[i] or 0.0), i))
    return any(sample.correct_K[i] for i in order[:k])


@settings(max_examples=60)
@given(questions())
def test_a_row_is_what_counting_gives(samples: list[Samples]) -> None:
    k = len(samples[0].texts_K)
    groups = list(range(len(samples)))
    row = dynamics_row(samples, groups, reps=REPS)
    n = len(samples)
    for size in (1, 2, 4):
        if size > k:
            assert str(size) not in row["pass_at"]
            continue
        subsets = list(combinations(range(k), size))
        passed = [
            sum(any(s.correct_K[i] for i in subset) for subset in subsets) / len(subsets)
            for s in samples
        ]
        assert row["pass_at"][str(size)]["value"] == pytest.approx(sum(passed) / n)
        gap = sum(passed) / n - sum(s.greedy for s in samples) / n
        assert row["headroom"][str(size)]["value"] == pytest.approx(gap)
        for name, distinct in (("sampled", False), ("distinct", True)):
            hits = [best(s, size, distinct) for s in samples]
            assert reward_hits(samples, size, distinct=distinct) == hits
            found = row["reward_pass_at"][str(size)][name]["value"]
            assert found == pytest.approx(sum(hits) / n)
    assert row["chains"]["value"] == pytest.approx(sum(len(set(s.texts_K)) for s in samples) / n)
    assert row["entropy"]["value"] == pytest.approx(0.5)


def test_without_scores_there_is_no_reward_pass() -> None:
    one = Samples(True, (True,), ("a",), (0,), (3,), (-1.5,))
    assert "reward_pass_at" not in dynamics_row([one, one], [0, 1], reps=REPS)
    with pytest.raises(ValueError, match="needs scores of all samples"):
        reward_hits([one], 2)
    with pytest.raises(ValueError, match="same number of samples"):
        dynamics_row([], [], reps=REPS)


def row(headroom: tuple[float, float], reward: float) -> dict[str, Any]:
    low, value = headroom
    hit = {"value": reward, "ci95": [reward - 0.06, reward + 0.06]}
    return {
        "headroom": {"2": {"value": 0.1, "ci95": [0.05, 0.2]},
                     "16": {"value": value, "ci95": [low, 0.3]}},
        "reward_pass_at": {"2": {"sampled": hit}},
    }  # fmt: skip


def test_saturation_is_said_when_nothing_is_left_or_nothing_moves() -> None:
    rising = [row((0.1, 0.2), at) for at in (0.30, 0.40, 0.50)]
    assert saturation(rising) == []
    assert saturation([]) == []
    (gone,) = saturation([*rising, row((-0.01, 0.02), 0.60)])
    assert "Pass@16 is above greedy by 2.0 points" in gone
    (still,) = saturation([row((0.1, 0.2), at) for at in (0.50, 0.52, 0.51)])
    assert "moved by 2.0 points over the last 3 evaluations, its error is 6.0" in still
    assert saturation([row((0.1, 0.2), at) for at in (0.50, 0.52)]) == [], "too few to say"
