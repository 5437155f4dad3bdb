"""The labelled and the unlabelled pool of training queries (paper section 4, prompt variation).

What always holds: a pool is a function of the queries' contents, a share and a seed, not of the
order of rows; queries that share an image, directly or through others, are hidden together, so no
image of the hidden share stays labelled; no query is in both pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.schema import Config
from pipeline.datasets.dataset import Dataset
from pipeline.datasets.splits import components
from pipeline.errors import BadConfig
from pipeline.generation.slices import subset
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import Query

UNLABELLED = "unlabelled"
"""What a run calls its unlabelled pool among its splits."""


def hide(queries: Sequence[Query], share: float, seed: int) -> tuple[list[Query], list[Query]]:
    """The labelled queries without about `share` of them, and those, whose answers are hidden now.

    Groups that share images are taken in the order of a hash of their smallest image; one that
    would go past the share stays labelled.
    """
    groups = components(queries)

    def ticket(group: list[int]) -> str:
        images = [image for index in group for image in queries[index].images]
        anchor = min(images) if images else queries[group[0]].content_hash
        return sha256_hex(canonical_json(["unlabelled", seed, anchor]))

    hidden: set[int] = set()
    for group in sorted(groups, key=ticket):
        if len(hidden) + len(group) <= share * len(queries):
            hidden.update(group)
    labelled = [query for index, query in enumerate(queries) if index not in hidden]
    return labelled, [replace(queries[index], unlabelled=True) for index in sorted(hidden)]


def unlabelled_queries(
    config: Config, dataset: Dataset, hidden: Sequence[Query], train: Sequence[Query]
) -> tuple[Query, ...]:
    """The unlabelled pool of a run that uses one.

    hidden, train: as `hide` gives them.

    Raises:
        BadConfig: it is empty.
    """
    data, oracle = config.data, config.unlabelled.use == "oracle"
    marked = [query for query in dataset.split(data.train) if query.unlabelled]
    pool = subset(_distinct(marked, hidden, train, oracle=oracle), config.unlabelled.queries)
    if pool and UNLABELLED not in (data.train, data.validation, *data.test):
        return tuple(pool)
    if pool:
        raise BadConfig(
            f"unlabelled.use = {config.unlabelled.use}: a split of the data is named "
            f"{UNLABELLED!r}, which is what a run calls its unlabelled pool; rename the split"
        )
    of = f"{len(marked)} unlabelled rows" if marked else "no unlabelled row"
    with_answer = " whose answer is there" if oracle else ""
    raise BadConfig(
        f"unlabelled.use = {config.unlabelled.use}: the unlabelled pool is empty: split "
        f"{data.train!r} has {of}{with_answer}, and data.unlabelled_share = "
        f"{data.unlabelled_share:g} of its {len(train)} labelled queries hides none; mark rows as "
        "unlabelled, name a second file (data.unlabelled), set data.unlabelled_share=0.5, say, or "
        "unlabelled.use=none"
    )


def _distinct(
    marked: Sequence[Query], hidden: Sequence[Query], labelled: Sequence[Query], *, oracle: bool
) -> list[Query]:
    """The unlabelled queries of a run, distinct by content, none of them labelled elsewhere.

    marked: those whose rows say that they are unlabelled. oracle: the hidden answers are used, so
    only queries that have one, as labelled ones.
    """
    seen = {query.content_hash for query in labelled}
    pool: list[Query] = []
    for query in (*marked, *hidden):
        usable = query.answer is not None if oracle else query.unlabelled
        if usable and query.content_hash not in seen:
            seen.add(query.content_hash)
            pool.append(replace(query, unlabelled=not oracle))
    return pool
