"""The oracle arm: selection by the process checker of the built-in task."""

from __future__ import annotations

import random

import pytest

from pipeline.config.load import config_from_dict
from pipeline.errors import BadConfig, BadData
from pipeline.query import Query
from pipeline.records import Rollout
from pipeline.responses import extract_answer
from pipeline.selection.rules import Rule
from pipeline.stages.select import choose
from pipeline.tasks.digits.build import Truth, build
from pipeline.tasks.digits.chains import explain


@pytest.fixture(scope="module")
def asked() -> tuple[Query, Truth]:
    built = build(sizes={"train": 1})
    (query,) = built.queries
    return query, built.truth[query.query_id]


def rollout(query: str, index: int, text: str) -> Rollout:
    return Rollout(
        query, "train-0", index, index, "p", 1.0, 1.0, "0" * 64, 7, (1,), (-1.0,), text, "stop"
    )


def test_true_processes_come_first_and_then_the_lowest_index(asked: tuple[Query, Truth]) -> None:
    query, truth = asked
    true = [explain(truth.question, truth.scene, random.Random(seed)) for seed in range(40)]
    true = list(dict.fromkeys(true))[:2]
    false = f"I guess.\n\n# Answer\n\n{query.answer}"
    assert all(extract_answer(text) == query.answer for text in true)
    rows = [rollout(query.content_hash, i, text) for i, text in enumerate([false, *true])]
    for k, kept in ((1, [1]), (2, [1, 2]), (3, [0, 1, 2])):
        made = choose(rows, ["correct"] * 3, None, Rule("top_k", k, by="checker", version=2), 0)
        assert [row.sample_index for row in made.kept] == kept
    assert made.rewards is not None
    assert [made.rewards[query.content_hash, i] for i in range(3)] == [0.0, 1.0, 1.0]
    made = choose(rows, ["correct", "wrong", "wrong"], None, Rule("top_k", 2, by="checker"), 0)
    assert [row.sample_index for row in made.kept] == [0], "the checker grades no answer"


def test_another_query_has_no_checker() -> None:
    rows = [rollout("f" * 64, 0, "I guess.\n\n# Answer\n\n7")]
    with pytest.raises(BadData, match="whose training split has no such query"):
        choose(rows, ["correct"], None, Rule("top_k", 1, by="checker"), 0)


def test_nor_have_other_data() -> None:
    select = {"rule": "top_k", "by": "checker"}
    assert config_from_dict({"select": select}).select.by == "checker"
    with pytest.raises(BadConfig, match=r"data.path = mine.jsonl has none"):
        config_from_dict({"select": select, "data": {"path": "mine.jsonl"}})
