"""Figure 2 on samples whose votes can be counted by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.metrics.evaluation import doubling
from pipeline.query import Query
from pipeline.reports.voting import Group, distributions, figure_2


def group(number: int, answers: str, rewards: list[float | None], gold: str = "1") -> Group:
    query = Query(
        query_id=f"q{number}", images=(f"image-{number // 2}",), question=f"{number}?",
        choices=None, answer=gold, answer_type="number", unlabelled=False, source="t", split="v",
    )  # fmt: skip
    return Group(
        query=query,
        greedy=answers[0] == gold,
        correct_K=tuple(a == gold for a in answers),
        texts_K=tuple(f"{a}{r}" for a, r in zip(answers, rewards, strict=True)),
        classes_K=tuple(None if a == "-" else answers.index(a) for a in answers),
        rewards_K=tuple(rewards),
        steps_K=tuple(range(len(answers))),
        tokens_K=tuple(10 * i for i in range(len(answers))),
    )


GROUPS = [
    group(0, "1121", [0.1, 0.2, 0.9, 0.3]),  # majority right, best wrong, weighted wrong
    group(1, "2213", [0.1, 0.1, 0.9, 0.2]),  # majority wrong, best and weighted right
    group(2, "-111", [None, 0.5, 0.5, 0.5]),
    group(3, "2222", [0.4, 0.3, 0.2, 0.1]),
]


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return figure_2(GROUPS, reps=200)


def test_votes_of_all_samples(found: dict[str, Any]) -> None:
    at_4 = {how: row["4"]["value"] for how, row in found["votes"].items()}
    assert at_4 == {"best": 0.5, "majority": 0.5, "weighted": 0.5, "pass": 0.75}
    assert found["votes"]["pass"]["1"]["value"] == pytest.approx((3 / 4 + 1 / 4 + 3 / 4) / 4)
    assert found["greedy"]["value"] == 0.25
    assert (found["questions"], found["samples"], found["without_score"]) == (4, 4, 1)
    low, high = found["votes"]["majority"]["4"]["ci95"]
    assert 0.0 <= low <= 0.5 <= high <= 1.0


def test_reward_pass_ranks_wrong_responses_too(found: dict[str, Any]) -> None:
    # The third question's best two are copies of one text; the fourth has nothing right.
    assert found["reward_pass_2"]["value"] == 0.75
    assert found["reward_pass_2_distinct"]["value"] == 0.75


def test_distributions_are_of_distinct_responses() -> None:
    made = distributions(GROUPS)
    assert made["right"]["responses"] == 3 + 1 + 1
    assert made["top_2"]["responses"] == 2 + 1 + 1
    assert made["rest"]["responses"] == 1
    assert made["rest"]["reward"] == 0.1
    assert made["wrong"]["responses"] == 1 + 2 + 4
    assert sum(made["wrong"]["counts"]) == 7
    assert distributions(GROUPS[3:])["right"]["reward"] is None


def test_a_correct_response_that_was_truncated_is_none_that_training_would_take() -> None:
    """The first is the best and was cut, as was a twin of the second: the second's own text ended
    by itself."""
    made = group(0, "11112", [0.9, 0.5, 0.5, 0.3, 0.1])
    cut = distributions([replace(made, correct_K=(False, False, True, True, False))])
    assert {name: one["responses"] for name, one in cut.items()} == {
        "right": 2, "top_2": 2, "rest": 0, "wrong": 3
    }  # fmt: skip
    assert cut["top_2"]["reward"] == pytest.approx(0.4)
    assert cut["top_2"]["tokens"] == 25, "of the third and the fourth"
    assert distributions([made])["top_2"]["reward"] == pytest.approx(0.7)


def test_a_vote_of_one_sample_is_pass_at_1(found: dict[str, Any]) -> None:
    for how in ("best", "majority", "weighted"):
        assert found["votes"][how]["1"]["value"] == found["votes"]["pass"]["1"]["value"]


def test_sizes() -> None:
    assert doubling(16) == [1, 2, 4, 8, 16]
    assert doubling(6) == [1, 2, 4, 6]
    with pytest.raises(ValueError, match="same number"):
        figure_2([GROUPS[0], group(5, "11", [0.1, 0.2])])
