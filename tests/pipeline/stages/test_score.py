"""Which rows of a graded shard are scored, and what is selected by the scores that came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Grade, Rollout, Score, Selected
from pipeline.refs import PolicyRef
from pipeline.run.shard_answers import ScoreDone
from pipeline.selection.rules import Rule
from pipeline.simulation.fleet import ENGINE
from pipeline.stages.score import (
    ScoreTask,
    Scoring,
    rows_to_score,
    score_shard,
    scores_problem,
)
from pipeline.storage.artifacts import put_content, read_rows
from pipeline.storage.parquet import to_parquet
from pipeline.storage.store import Store, open_store

QUERIES = ("q0", "q1")
REWARDS = {"a": 0.9, "b": 0.5, "c": 0.5, "d": 0.1, "x": 1.0}


def row(query: str, index: int, text: str, finish: str) -> Rollout:
    return Rollout(
        query=query, query_id=query, sample_index=index, seed=index, policy="policy-1",
        temperature=1.0, top_p=1.0, prompt_sha256="p", prompt_tokens=4, token_ids=(1, 2, 3),
        logprobs=(-0.5,) * 3, text=text, finish=finish,
    )  # fmt: skip


@st.composite
def shards(draw: st.DrawFn) -> tuple[list[Rollout], list[Grade]]:
    """Few texts, so that most have twins: some cut, some that the grader had no time for."""
    rows, grades = [], []
    for query in QUERIES:
        for index in range(draw(st.integers(0, 6))):
            text = draw(st.sampled_from("abcdx"))
            rows.append(row(query, index, text, draw(st.sampled_from(["stop", "stop", "length"]))))
            timely = draw(st.sampled_from([True, True, False]))
            outcome = ("wrong" if text == "x" else "correct") if timely else "timeout"
            grades.append(Grade(query, index, outcome, text))
    return rows, grades


def task_of(
    store: Store, rows: list[Rollout], grades: list[Grade], which: Literal["right", "all"]
) -> ScoreTask:
    return ScoreTask(
        key="shard-1",
        rollout=put_content(store, "rollout", "k", to_parquet(rows, Rollout), "parquet"),
        grades=put_content(store, "grade", "k", to_parquet(grades, Grade), "parquet"),
        queries_Q=(),
        prompt="question",
        scoring=Scoring(PolicyRef("prm-1", "policies/prm"), which, "min"),
        rule=Rule("top_k", 2),
        seed=0,
    )


def score_of(row: Rollout) -> Score:
    return Score(row.query, row.sample_index, (2,), (REWARDS[row.text],), REWARDS[row.text])


def score(
    store: Store, task: ScoreTask, score_many: Callable[[Sequence[Rollout]], list[Score | str]]
) -> ScoreDone:
    return score_shard(store, task, score_many, engine=ENGINE, kind="head")


def best_two(rows: list[Rollout], grades: list[Grade], without: set[str]) -> set[tuple[str, int]]:
    """By definition: of each query's right texts that ended by themselves at least once."""
    kept = set()
    for query in QUERIES:
        able: dict[str, int] = {}
        for one, grade in zip(rows, grades, strict=True):
            if (one.query, grade.outcome, one.finish) == (query, "correct", "stop"):
                able.setdefault(one.text, one.sample_index)
        ranked = sorted((-REWARDS[text], able[text]) for text in able if text not in without)
        kept |= {(query, index) for _, index in ranked[:2]}
    return kept


@given(shards(), st.sampled_from(["right", "all"]), st.sets(st.sampled_from("abcdx"), max_size=2))
def test_a_correct_response_has_its_score_whatever_became_of_its_twins(
    shard: tuple[list[Rollout], list[Grade]], which: Literal["right", "all"], without: set[str]
) -> None:
    """without: texts that the scorer excludes."""
    rows, grades = shard
    store = open_store("memory://")
    task = task_of(store, rows, grades, which)
    asked = rows_to_score(rows, grades, task)
    texts = [(one.query, one.text) for one in asked]
    assert len(texts) == len(set(texts))
    if which == "all":
        assert set(texts) == {(one.query, one.text) for one in rows}
    left_out = sum(row.text in without for row in asked)
    done = score(
        store,
        task,
        lambda rows: ["too_long" if row.text in without else score_of(row) for row in rows],
    )
    assert done.excluded == ({"too_long": left_out} if left_out else {})
    assert done.selected is not None
    kept = read_rows(store, done.selected, Selected)
    assert {(one.query, one.sample_index) for one in kept} == best_two(rows, grades, without)


def test_a_shard_without_correct_responses_asks_no_scorer() -> None:
    store = open_store("memory://")
    rows = [row("q0", index, "x", "stop") for index in range(3)]
    grades = [Grade("q0", index, "wrong", "") for index in range(3)]
    done = score(store, task_of(store, rows, grades, "right"), lambda rows: 1 // 0)  # type: ignore[arg-type, return-value]
    assert read_rows(store, done.scores, Score) == []
    assert done.coverage is not None
    assert (done.coverage.wrong, done.coverage.kept) == (3, 0)


def test_a_score_that_is_missing_is_an_error_and_never_taken_for_an_excluded_one() -> None:
    store = open_store("memory://")
    rows = [row("q0", index, text, "stop") for index, text in enumerate("abx")]
    grades = [Grade("q0", index, "wrong" if index == 2 else "correct", "") for index in range(3)]
    task = task_of(store, rows, grades, "right")
    with pytest.raises(RuntimeError, match="1 scores came for 2 responses"):
        score(store, task, lambda rows: [score_of(rows[0])])
    asked = [("q0", 0), ("q0", 1)]
    assert scores_problem(asked, [score_of(rows[0])], {"too_long": 1}) is None
    for there, excluded in [
        (rows[:1], {}),
        ([rows[0], rows[2]], {"too_long": 1}),
        ([rows[0], rows[0]], {"too_long": 1}),
        (rows[:2], {"too_long": 1}),
    ]:
        problem = scores_problem(asked, [score_of(row) for row in there], excluded)
        assert problem is not None
        assert "are excluded" in problem
