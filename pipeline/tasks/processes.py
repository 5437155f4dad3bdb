"""The process checkers of built-in tasks, by query: is every step of a response true?

For the oracle arm of an ablation alone (`select.by=checker`): no data but a built-in task have one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from pipeline.errors import BadData
from pipeline.tasks.digits.build import SIZES, Truth, build
from pipeline.tasks.digits.checker import check


@cache
def _digits() -> Mapping[str, Truth]:
    """The truth of the training queries of `digits`, by content hash; seconds to draw."""
    built = build(sizes={"train": SIZES["train"]})
    return {query.content_hash: built.truth[query.query_id] for query in built.queries}


def process_true(query: str, text: str) -> bool:
    """Whether every step of a response holds and settles its answer. query: its content hash.

    Raises:
        BadData: no checker knows the query.
    """
    truth = _digits().get(query)
    if truth is None:
        raise BadData(
            f"query {query[:16]}: select.by = checker ranks by the process checker of the built-in "
            "digits task, whose training split has no such query"
        )
    return check(text, truth.question, truth.scene).process_true
