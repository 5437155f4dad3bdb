"""What a data set holds, in words: format, splits, answers, images, problems, equal pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.datasets.dataset import Dataset
from pipeline.datasets.lookalike import groups_inside, looks_of, pairs_between, queries_showing
from pipeline.datasets.splits import shared_images
from pipeline.errors import BadRow
from pipeline.query import Query

_LISTED = 5
# What differs between two messages of one kind: quoted text, paths, numbers.
_PARTICULAR = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S+|\b\d[\d,.]*")

# Data sets that MathVista and MathV360K are both made of, as both call them.
_VISTA_SOURCES = frozenset(
    {
        "A-OKVQA", "AI2D", "CLEVR-Math", "ChartQA", "DocVQA", "DVQA", "FigureQA", "Geometry3K",
        "GeoQA+", "GEOS", "IconQA", "KVQA", "MapQA", "PMC-VQA", "PlotQA", "SciBench", "ScienceQA",
        "Super-CLEVR", "TQA", "TabMWP", "TextVQA", "TheoremQA", "UniGeo", "VQA-AS", "VQA-RAD",
        "VQA2.0", "VizWiz",
    }
)  # fmt: skip


def described(path: Path, data: Dataset, others: Mapping[str, Dataset]) -> Iterator[str]:
    """A data set in lines of text; others: test sets that its pictures are compared with, by name.

    Decodes every image.
    """
    rows = len(data.queries) + len(data.bad) + data.duplicates
    yield str(path)
    for form in data.forms:
        yield f"  format    {form.name}, told by {form.says}"
        if form.note:
            yield f"            {form.note}"
    if not data.forms:
        yield "  format    our own (docs/data.md)"
    yield (
        f"  rows      {rows:,}: {len(data.queries):,} can be used, {len(data.bad):,} cannot, "
        f"{data.duplicates:,} say what an earlier one says"
    )
    splits = Counter(query.split or "none" for query in data.queries)
    yield f"  splits    {_counts(splits)}"
    types = Counter(str(query.answer_type) for query in data.queries)
    hidden = sum(query.unlabelled for query in data.queries)
    yield f"  answers   {_counts(types)}; {hidden:,} hidden"
    yield f"  choices   {_counts(Counter(_choices(query) for query in data.queries))}"
    yield from _images(data)
    sources = Counter(query.source for query in data.queries)
    yield f"  sources   {_counts(sources, 12)}"
    yield from _vista(sources)
    yield from (f"  warning   {line}" for line in data.warnings)
    yield from _problems(data.bad)
    yield from _equal_pictures(data, others)


def _choices(query: Query) -> str:
    return "free-form" if query.choices is None else f"of {len(query.choices)}"


def _counts(counts: Counter[str], most: int = 30) -> str:
    """The counts by name, the most frequent first: "number 6, letter 5"."""
    found = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    more = f", and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(f"{name}: {count:,}" for name, count in found[:most]) + more


def _images(data: Dataset) -> Iterator[str]:
    per_query = Counter(f"with {len(query.images)}" for query in data.queries)
    yield f"  images    {len(data.image_paths):,}; queries {_counts(per_query)}"
    sizes = [data.image_sizes[sha] for sha in data.image_paths]
    if sizes:
        least, largest = min(sizes, key=_area), max(sizes, key=_area)
        kinds = Counter(file.suffix.lstrip(".").lower() for file in data.image_paths.values())
        pixels = f"{least[0]}x{least[1]} to {largest[0]}x{largest[1]} pixels"
        yield f"            {pixels}; {_counts(kinds)}"


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _vista(sources: Counter[str]) -> Iterator[str]:
    shared = sorted(sources.keys() & _VISTA_SOURCES)
    if shared:
        count = sum(sources[name] for name in shared)
        yield (
            f"  overlap   {count:,} queries are from data sets that MathVista is made of too "
            f"({', '.join(shared)}): compare the pictures with --against MATHVISTA"
        )


def _problems(bad: Sequence[BadRow]) -> Iterator[str]:
    kinds: dict[str, list[tuple[BadRow, str]]] = {}
    for row in bad:
        for reason in row.reasons:
            kinds.setdefault(_PARTICULAR.sub("…", reason), []).append((row, reason))
    if kinds:
        yield "  cannot be used, by reason (the first row of each):"
    for found in sorted(kinds.values(), key=len, reverse=True):
        row, reason = found[0]
        yield f"  {len(found):>9,} {Path(row.file).name} row {row.row}: {reason}"


def _equal_pictures(data: Dataset, others: Mapping[str, Dataset]) -> Iterator[str]:
    leaks = shared_images(data.queries)
    if leaks:
        yield (
            f"  {len(leaks):,} images stand in two splits of it, which a run refuses; the first is "
            f"{data.image_name(leaks[0][0])}, in {leaks[0][1].split} and {leaks[0][2].split}"
        )
    looks = looks_of(data)
    groups = groups_inside(looks)
    yield f"  {sum(map(len, groups)) - len(groups):,} images show what another of it shows"
    for group in groups[:_LISTED]:
        yield f"            {', '.join(data.image_name(sha) for sha in group[:3])}"
    for name, other in others.items():
        pairs = pairs_between(looks, looks_of(other))
        yield (
            f"  {len(pairs):,} images show what one of {name} shows; "
            f"{len(queries_showing(data, pairs)):,} of {len(data.queries):,} queries"
        )
        for mine, theirs in list(pairs.items())[:_LISTED]:
            yield f"            {data.image_name(mine)} = {other.image_name(theirs)}"
