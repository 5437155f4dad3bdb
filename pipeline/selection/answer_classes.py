"""Which answers of one question vote together: those that the grader calls equal.

Votes are counted before any gold answer is known (a pseudo-label is the answer that wins), so an
answer is compared with another answer by the very rules that grade it: "B", "(B)" and "Option B"
are one vote, and so are "0.5", "1/2" and "50%".
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import BadData
from pipeline.grading.grade import Gold, judge
from pipeline.query import Query


def answer_classes(answers_K: Sequence[str | None], query: Query) -> list[int | None]:
    """For each answer the index of the first one that it equals (its own, where there is none
    before it); None for a response without an answer.

    An answer is compared with the first of each class, in order. One that cannot be read as the
    question's type equals only what reads the same, apart from space and case. The gold answer is
    not looked at. May take as long as grading does: what the grader ran out of time with should be
    given as None.
    """
    firsts: dict[int, str] = {}
    of_text: dict[str, int] = {}
    classes_K: list[int | None] = []
    for index, answer in enumerate(answers_K):
        if answer is None:
            classes_K.append(None)
            continue
        text = " ".join(answer.split()).casefold()
        if text not in of_text:
            equal = (place for place, first in firsts.items() if _equal(answer, first, query))
            of_text[text] = next(equal, index)
            firsts.setdefault(of_text[text], answer)
        classes_K.append(of_text[text])
    return classes_K


def _equal(answer: str, first: str, query: Query) -> bool:
    """Whether the grader would call `answer` correct if `first` were the gold answer."""
    gold = Gold(query.query_id, first, query.answer_type, query.choices)
    try:
        return judge(answer, gold).outcome == "correct"
    except BadData:
        return False  # the first one cannot be read as an answer of this type
