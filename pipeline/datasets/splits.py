"""Which split a query stands in, when images are shared between queries.

What is trained on and what policies are chosen by share no image with each other or with any test
set (paper section 7, trap 7: many questions are asked of one image). Carving is a pure function of
the queries' contents and a seed: it does not depend on the order of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.datasets.files import Place, as_rows
from pipeline.errors import BadData, BadRows
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.metrics.accuracy import image_groups
from pipeline.query import Query

# What is trained on and what policies are chosen by, for the usual names of splits.
APART = ("train", "validation")


@dataclass(frozen=True)
class Carve:
    """How much to set aside from data that comes without splits, in queries.

    None: as `default_size` says of the labelled queries, or what comes nearest without dividing an
    image's queries. The carved splits hold at least what is asked for, since a shared image keeps
    queries together.
    """

    validation: int | None = None
    test: int | None = None
    seed: int = 0


MOST = {"test": 750, "validation": 250}
"""The sizes of the paper."""

SMALL = 30
"""Queries that a split of small data has, if that is at most a fifth of them: with fewer, an
interval is wider than 35 points."""


def default_size(split: str, labelled: int) -> int:
    """Queries to set aside for a split: a tenth of the labelled ones, at most as many as in the
    paper; of small data `SMALL`, or a fifth."""
    return min(MOST[split], max(labelled // 10, min(SMALL, labelled // 5)))


def components(queries: Sequence[Query]) -> list[list[int]]:
    """Groups of indices that share images, directly or through others; in order of first index."""
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(image_groups(queries)):
        groups.setdefault(group, []).append(index)
    return list(groups.values())


def carve(queries: Sequence[Query], sizes: Carve) -> list[Query]:
    """The same queries, in the same order, in splits train, validation and test.

    Groups of queries are taken in the order of a hash of their contents, for test first. A group
    with an unlabelled query stays in train, and so does one larger than the split itself.

    Raises:
        BadData: when the data does not hold as many as were asked for.
    """
    groups = [g for g in components(queries) if not any(queries[i].unlabelled for i in g)]
    labelled = sum(len(group) for group in groups)
    asked = {"test": sizes.test, "validation": sizes.validation}
    left = _drawn(queries, groups, sizes.seed)
    split_of: dict[int, str] = {}
    for split, asked_size in asked.items():
        size = default_size(split, labelled) if asked_size is None else asked_size
        taken = _taken(left, size)
        count = sum(map(len, taken))
        if asked_size is not None and count < size:
            raise BadData(_too_few(split, size, count, labelled))
        if asked_size is None and count == 0 and len(left) > (2 if split == "test" else 1):
            taken = [min(left, key=len)]  # few images with many questions each
        split_of |= {index: split for group in taken for index in group}
        left = [group for group in left if group[0] not in split_of]
    if queries and len(split_of) == len(queries):
        raise BadData(f"nothing is left to train on after {asked} of {len(queries)} queries")
    return [
        replace(query, split=split_of.get(index, "train")) for index, query in enumerate(queries)
    ]


def _drawn(queries: Sequence[Query], groups: Sequence[list[int]], seed: int) -> list[list[int]]:
    """Groups that share images in an order drawn by the seed, whatever the order of the rows."""

    def order(group: list[int]) -> str:
        # The smallest image names the group, whatever the order and number of its questions.
        images = [image for index in group for image in queries[index].images]
        anchor = min(images) if images else queries[group[0]].content_hash
        return sha256_hex(canonical_json([seed, anchor]))

    return sorted(groups, key=order)


def mstar_split(queries: Sequence[Query], seed: int) -> list[Query]:
    """The same queries, in the same order, split as the paper splits MathV360K (section 6).

    Half of the labelled queries are the labelled training set. Of the other half 750 are the test
    set and 250 the validation set (of fewer than 7,500 a tenth, as `default_size` says); the rest
    stays in train, unlabelled: its answers are hidden from the run. Queries that share an image
    stay together. A pure function of the queries' contents and the seed.

    Raises:
        BadData: the data does not hold enough images to fill the three splits.
    """
    groups = components(queries)
    labelled = [g for g in groups if not any(queries[i].unlabelled for i in g)]
    total = sum(map(len, labelled))
    half, others = 0, list[list[int]]()
    for group in _drawn(queries, labelled, seed):
        if 2 * half < total:
            half += len(group)
        else:
            others.append(group)
    left = {index: "" for group in others for index in group}
    for split in MOST:
        count, size = 0, default_size(split, len(left))
        for group in others:
            if left[group[0]] == "" and count + len(group) <= size:
                left |= dict.fromkeys(group, split)
                count += len(group)
        if not count:
            raise BadData(
                f"data.split = mstar: {total} labelled queries of {len(labelled)} groups that "
                f"share images are too few for a {split} split; leave data.split out"
            )
    return [
        replace(query, split=left.get(index) or "train",
                unlabelled=query.unlabelled or left.get(index) == "")
        for index, query in enumerate(queries)
    ]  # fmt: skip


def _taken(groups: Sequence[list[int]], size: int) -> list[list[int]]:
    """The first groups, none larger than the split itself, that hold `size` queries together."""
    taken: list[list[int]] = []
    count = 0
    for group in groups:
        if count < size and len(group) <= size:
            taken.append(group)
            count += len(group)
    return taken


def _too_few(split: str, size: int, count: int, labelled: int) -> str:
    return (
        f"{size} queries were asked for the {split} split and {count} can be set aside, of "
        f"{labelled} labelled ones; queries that share an image stay together. Ask for fewer, or "
        "give the splits yourself (a split column, or files named after splits)"
    )


def shared_images(
    queries: Sequence[Query], apart: Sequence[str] = APART
) -> list[tuple[str, Query, Query]]:
    """Images of the splits `apart` that stand in another split too, with a query of each.

    Two test sets may share images: neither is trained on or chosen by.
    """
    first: dict[str, dict[str, Query]] = {}
    for query in queries:
        for image in query.images:
            first.setdefault(image, {}).setdefault(query.split, query)
    leaks = []
    for image, by_split in first.items():
        for position, private in enumerate(apart):
            others = by_split.keys() - set(apart[: position + 1])
            if private in by_split:
                leaks += [(image, by_split[private], by_split[other]) for other in sorted(others)]
    return leaks


def check_disjoint(
    queries: Sequence[Query],
    places: Mapping[str, Place],
    paths: Mapping[str, Path],
    *,
    apart: Sequence[str] = APART,
    listed: int = 20,
) -> None:
    """Refuse queries of the splits `apart` that share an image with another split.

    `places` gives the row of a query id, `paths` the file of an image hash.

    Raises:
        BadRows: naming the image and a row of each split.
    """
    leaks = shared_images(queries, apart)
    if not leaks:
        return
    bad: dict[Place, list[str]] = {}
    lines = []
    for image, *pair in leaks:
        file = paths.get(image, image)
        first, second = (f"in {q.split} ({_row_of(q, places)})" for q in pair)
        lines.append(f"{file}: {first} and {second}")
        for query, other in zip(pair, (second, first), strict=True):
            if query.query_id in places:
                bad.setdefault(places[query.query_id], []).append(
                    f"its image {file} stands {other}"
                )
    unlisted = max(0, len(lines) - listed)
    if unlisted:
        lines = [*lines[:listed], f"and {unlisted} more"]
    head = f"{len(leaks)} images stand in two splits; give every image to one of them"
    raise BadRows("\n  ".join([head, *lines]), as_rows(bad), unlisted)


def _row_of(query: Query, places: Mapping[str, Place]) -> str:
    place = places.get(query.query_id)
    return query.query_id if place is None else place.text
