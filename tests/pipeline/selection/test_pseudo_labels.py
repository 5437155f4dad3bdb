"""Votes of unlabelled queries against brute force, and what selection may keep by them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query import Query
from pipeline.records import AnswerClass, Grade, Rollout
from pipeline.selection.pseudo_labels import (
    ANSWERED,
    PseudoLabel,
    Voting,
    label_counts,
    vote,
    voted_outcomes,
)
from pipeline.simulation.grader import grade
from pipeline.stages.grade import without_hidden
from pipeline.stages.pseudo_label import classify, read_answers, truth_of

QUERY = Query("q", (), "How many?", None, "7", "number", unlabelled=True)
NAME = QUERY.content_hash


def rollout(index: int, answer: str | None, nats: float = -1.0, finish: str = "stop") -> Rollout:
    text = "I see it." if answer is None else f"step {index}\n\n# Answer\n\n{answer}"
    return Rollout(
        NAME, "q", index, index, "policy", 1.0, 1.0, "0" * 64, 7, (1, 2), (nats, nats), text, finish
    )


def read(rows: list[Rollout]) -> tuple[list[Grade], list[AnswerClass]]:
    """Grades and classes, with the scripted grader (equal texts are equal)."""

    def compare(items: list[tuple[str, Query]]) -> list[Any]:
        return [grade(text, query) for text, query in items]

    by_hash = {NAME: QUERY}
    grades, _ = read_answers(rows, by_hash, (), compare)
    return grades, classify(rows, grades, by_hash, compare)


samples = st.lists(
    st.tuples(
        st.sampled_from(["7", "8", "9", None]),
        st.floats(-3, 0),
        st.sampled_from(["stop", "stop", "stop", "length"]),
        st.one_of(st.none(), st.floats(0, 1)),
    ),
    min_size=1,
    max_size=12,
)


@given(samples, st.sampled_from(["prm", "logprob", "majority"]), st.floats(0, 1))
def test_a_vote_is_what_brute_force_gives(drawn: list[Any], by: Any, least: float) -> None:
    rows = [rollout(i, answer, nats, finish) for i, (answer, nats, finish, _) in enumerate(drawn)]
    rewards = {(NAME, i): one[3] for i, one in enumerate(drawn)}
    grades, classes = read(rows)
    found = vote(rows, grades, classes, rewards, Voting(by, least))

    weights: dict[str, list[float]] = {}
    for answer, nats, finish, reward in drawn:
        if answer is not None and finish == "stop":
            weight = {"prm": reward or 0.0, "logprob": math.exp(nats), "majority": 1.0}[by]
            weights.setdefault(answer, []).append(weight)
    if not weights:
        assert found == {}
        return
    sums = {answer: math.fsum(parts) for answer, parts in weights.items()}
    best = max(sums.values())
    label, total = found[NAME], math.fsum(sums.values())
    assert sums[label.answer] == pytest.approx(best)
    voters = sum(map(len, weights.values()))
    wanted = best / total * voters / len(drawn) if total else 0.0
    assert label.share == pytest.approx(wanted)
    assert label.taken == (total > 0 and label.share >= least)
    if by == "majority":
        assert label.share == pytest.approx(len(weights[label.answer]) / len(drawn))


@given(samples)
def test_only_what_equals_the_winner_is_correct(drawn: list[Any]) -> None:
    rows = [rollout(i, answer, nats, finish) for i, (answer, nats, finish, _) in enumerate(drawn)]
    grades, classes = read(rows)
    labels = vote(rows, grades, classes, {}, Voting("majority"))
    outcomes = voted_outcomes(rows, grades, classes, labels)
    for (answer, _, finish, _), outcome in zip(drawn, outcomes, strict=True):
        if answer is None:
            assert outcome == "unparsed"
        elif NAME in labels and finish == "stop":
            assert outcome == ("correct" if answer == labels[NAME].answer else "wrong")
        else:
            assert outcome != "correct"


def test_a_query_below_the_least_share_gives_nothing() -> None:
    rows = [rollout(i, answer) for i, answer in enumerate(["7", "7", "8", None])]
    grades, classes = read(rows)
    for least, taken in ((0.5, True), (0.51, False)):
        labels = vote(rows, grades, classes, {}, Voting("majority", least))
        assert labels == {NAME: PseudoLabel("7", 0, 0.5, taken)}
        outcomes = voted_outcomes(rows, grades, classes, labels)
        assert ("correct" in outcomes) is taken
        assert taken or outcomes == [ANSWERED, ANSWERED, ANSWERED, "unparsed"]


class Hidden(Query):
    """A query whose answer nobody may read while it is hidden."""

    def __getattribute__(self, name: str) -> Any:
        if name == "answer" and self.unlabelled:
            raise AssertionError("a hidden answer was read")
        return super().__getattribute__(name)


def test_reading_comparing_and_naming_look_at_no_hidden_answer() -> None:
    hidden = Hidden("q", (), "How many?", None, "7", "number", unlabelled=True)
    with pytest.raises(AssertionError):
        _ = hidden.answer

    def compare(items: list[tuple[str, Query]]) -> list[Any]:
        return [grade(text, query) for text, query in items]

    rows = [rollout(i, answer) for i, answer in enumerate(["7", "8", "7"])]
    grades, _ = read_answers(rows, {NAME: hidden}, (), compare)
    classes = classify(rows, grades, {NAME: hidden}, compare)
    assert [one.outcome for one in grades] == [ANSWERED] * 3
    assert [one.equals for one in classes] == [0, 1, 0]
    other = replace(QUERY, answer="8")
    assert without_hidden([other]) == without_hidden([QUERY]), "nor does a key hold it"


def test_the_truth_is_told_by_class_where_it_is_known() -> None:
    rows = [rollout(i, answer) for i, answer in enumerate(["8", "7", "7"])]
    _, classes = read(rows)

    def compare(items: list[tuple[str, Query]]) -> list[Any]:
        return [grade(text, query) for text, query in items]

    assert truth_of(rows, classes, {NAME: QUERY}, compare) == {NAME: [1]}
    assert truth_of(rows, classes, {NAME: replace(QUERY, answer="9")}, compare) == {NAME: []}
    assert truth_of(rows, classes, {NAME: replace(QUERY, answer=None)}, compare) == {}
    votes = {NAME: PseudoLabel("7", 1, 0.6, True).to_dict()}
    assert label_counts(1, votes, {NAME: [1]})["correct"] == 1
    assert label_counts(1, votes, {NAME: []})["correct"] == 0
    assert label_counts(1, votes, {})["known"] == 0
