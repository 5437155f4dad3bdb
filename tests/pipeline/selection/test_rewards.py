"""R_p, rankings and votes against brute-force references."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics.votes import ranked, reward_pass, vote_accuracy, winner
from pipeline.selection.rewards import reward_p
from pipeline.selection.rules import Rule, select
from tests.support.rows import Row

COARSE = st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0])


def test_aggregates_of_step_scores() -> None:
    scores = [0.5, 0.9, 0.6]
    assert reward_p(scores) == 0.5
    assert reward_p(scores, "mean") == pytest.approx(2 / 3)
    assert reward_p(scores, "product") == pytest.approx(0.27)
    assert reward_p(scores, "last") == 0.6
    assert reward_p([0.0, 1.0], "product") == 0.0
    assert reward_p([1.0] * 3, "mean") == reward_p([1.0] * 3, "product") == 1.0
    assert reward_p([1e-200, 1e-100], "product") == pytest.approx(1e-300, rel=1e-9)


@pytest.mark.parametrize("how", ["min", "mean", "product", "last"])
@pytest.mark.parametrize(
    "bad", [[], [math.nan], [0.5, 1.5], [-0.1], [math.inf, 0.2], [0.5, math.nan]]
)
def test_what_is_no_probability_is_refused(how: str, bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"process reward|probability"):
        reward_p(bad, how)  # type: ignore[arg-type]


def test_ranking_breaks_ties_by_index_and_puts_the_unscored_last() -> None:
    assert ranked([0.5, None, 0.9, 0.5, 0.0]) == [2, 0, 3, 4, 1]
    with pytest.raises(ValueError, match="finite"):
        ranked([0.5, math.nan])


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[str], list[bool], list[float]]:
    """K samples in which texts coincide; equal texts have equal outcomes and rewards."""
    texts = draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=7))
    right = {text: draw(st.booleans()) for text in "abcdef"}
    reward = {text: draw(COARSE) for text in "abcdef"}
    return texts, [right[t] for t in texts], [reward[t] for t in texts]


def reference_pass(correct: list[bool], rewards: list[float], allowed: list[int], k: int) -> bool:
    """Of all subsets of k allowed samples the one that no swap improves holds a correct one."""
    size = min(k, len(allowed))
    best = min(
        itertools.combinations(allowed, size),
        key=lambda subset: sorted((-rewards[i], i) for i in subset),
    )
    return any(correct[i] for i in best)


@given(groups(), st.integers(1, 4))
def test_reward_pass_is_over_all_samples(
    group: tuple[list[str], list[bool], list[float]], k: int
) -> None:
    texts, correct, rewards = group
    everyone = list(range(len(texts)))
    assert reward_pass(correct, rewards, k) == reference_pass(correct, rewards, everyone, k)
    distinct = [i for i in everyone if texts[i] not in texts[:i]]
    assert reward_pass(correct, rewards, k, texts_K=texts) == reference_pass(
        correct, rewards, distinct, k
    )


@given(groups())
def test_training_top_2_and_reward_pass_are_two_things(
    group: tuple[list[str], list[bool], list[float]],
) -> None:
    """Top-2 keeps correct responses whenever there are any, Reward-Pass@2 only counts those that
    beat the wrong ones: whichever of the two implementations replaced the other, one fails."""
    texts, correct, rewards = group
    rows = [Row("q", index, text) for index, text in enumerate(texts)]
    outcomes = ["correct" if right else "wrong" for right in correct]
    kept = select(rows, outcomes, rewards, Rule("top_k", 2))
    distinct = [i for i in range(len(texts)) if texts[i] not in texts[:i]]
    right = [i for i in distinct if correct[i]]
    assert {row.sample_index for row in kept} == set(
        sorted(right, key=lambda i: (-rewards[i], i))[:2]
    )
    assert bool(kept) == any(correct)
    above = [i for i in distinct if not correct[i]]
    best = min(right, key=lambda i: (-rewards[i], i), default=None)
    beaten = best is not None and sum((-rewards[i], i) < (-rewards[best], best) for i in above) < 2
    assert reward_pass(correct, rewards, 2, texts_K=texts) == beaten


def test_an_example_tells_top_2_from_reward_pass_at_2() -> None:
    rows = [Row("q", index, text) for index, text in enumerate("abcd")]
    outcomes, scores = ["correct", "wrong", "wrong", "correct"], [0.1, 0.9, 0.8, 0.2]
    kept = select(rows, outcomes, scores, Rule("top_k", 2))
    assert [row.sample_index for row in kept] == [0, 3]
    assert not reward_pass([True, False, False, True], scores, 2)


def test_votes() -> None:
    answers, rewards = ["7", "3", "3", None, "7"], [0.9, 0.3, 0.2, 1.0, 0.1]
    assert winner("majority", answers, rewards) == 0  # two each: the earlier first sample
    assert winner("weighted", answers, rewards) == 0
    assert winner("weighted", answers, [0.1, 0.3, 0.2, 1.0, 0.1]) == 1
    assert winner("best", answers, rewards) == 3
    assert winner("majority", [None, None], [0.5, 0.5]) is None
    assert winner("weighted", ["4", "5"], [None, 0.1]) == 1


def test_vote_accuracy_of_all_is_one_vote_and_of_one_is_the_mean() -> None:
    correct = [True, False, False, True, False, False]
    answers = ["1", "2", "3", "1", "2", "4"]
    rewards: list[float | None] = [0.2, 0.9, 0.1, 0.3, 0.8, 0.5]
    assert vote_accuracy("majority", correct, answers, rewards, 6, query="q") == 1.0
    assert vote_accuracy("best", correct, answers, rewards, 6, query="q") == 0.0
    ones = [
        vote_accuracy(how, correct, answers, rewards, 1, query="q", draws=4000)
        for how in ("best", "majority", "weighted")
    ]
    assert ones[0] == ones[1] == ones[2] == pytest.approx(1 / 3, abs=0.03)
    with pytest.raises(ValueError, match="vote of 7"):
        vote_accuracy("best", correct, answers, rewards, 7, query="q")


@given(groups())
def test_best_of_n_matches_its_closed_form(
    group: tuple[list[str], list[bool], list[float]],
) -> None:
    """Rank r is the best of a random subset of n with probability C(K - r - 1, n - 1) / C(K, n)."""
    _, correct, rewards = group
    total = len(correct)
    n = (total + 1) // 2
    exact = sum(
        correct[i] * math.comb(total - rank - 1, n - 1) / math.comb(total, n)
        for rank, i in enumerate(ranked(rewards))
    )
    found = vote_accuracy("best", correct, correct, rewards, n, query="q", draws=500)
    assert found == pytest.approx(exact, abs=0.1)
