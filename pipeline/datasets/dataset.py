"""A data set: its queries, the files of their images, reading both in and writing them out.

What `load_dataset` returns has been checked as a whole: every row means one thing, ids and contents
are unique, every image decodes and hashes to its name, and no split leaks into another by an image.
`write_dataset` writes the same bytes for the same queries, and they load as the same queries.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.datasets.entries import Entry, assemble, checked, doubts, hash_images, query_of
from pipeline.datasets.files import SPLITS, SUFFIXES, Place, Problems, Row, data_files
from pipeline.datasets.images import Limits, bytes_problem, decode, suffix_of
from pipeline.datasets.published import AUTO
from pipeline.datasets.published_form import Form
from pipeline.datasets.row_checks import check_row, unknown_column
from pipeline.datasets.rows import RowReader
from pipeline.datasets.splits import Carve, carve, check_disjoint, mstar_split
from pipeline.errors import BadData, BadRow
from pipeline.hashing import sha256_hex
from pipeline.query import ANSWER_TYPES, LETTERS, AnswerType, Query

__all__ = [
    "ANSWER_TYPES",
    "LETTERS",
    "AnswerType",
    "Carve",
    "Dataset",
    "Limits",
    "Query",
    "Reading",
    "check_writable",
    "load_dataset",
    "read_dataset",
    "write_dataset",
]

_SCHEMA = pa.schema(
    [
        ("query_id", pa.string()),
        ("images", pa.list_(pa.string())),
        ("question", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answer", pa.string()),
        ("answer_type", pa.string()),
        ("unlabelled", pa.bool_()),
        ("source", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass
class Dataset:
    """Checked queries in the order of the data, and where things came from.

    image_paths: the file of each image hash; image_sizes: its width and height in pixels, as models
    see it. places: the row of each query id, for messages. duplicates: rows left out because an
    earlier one says the same. warnings: what can be used and may not be what was meant.
    bad: rows left out because they cannot be used. forms: the published formats that were met.
    published: the cells of each row as they were published, by query id, where they were asked for.
    """

    queries: list[Query]
    image_paths: dict[str, Path]
    places: dict[str, Place] = field(default_factory=dict)
    duplicates: int = 0
    image_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    bad: tuple[BadRow, ...] = ()
    forms: tuple[Form, ...] = ()
    published: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def where(self) -> dict[str, str]:
        """`file:line` of each query id."""
        return {query_id: place.text for query_id, place in self.places.items()}

    def image_name(self, sha: str) -> str:
        """How messages call an image: by its file."""
        return str(self.image_paths.get(sha, sha))

    def split(self, name: str) -> list[Query]:
        """The queries of one split, in order."""
        return [query for query in self.queries if query.split == name]

    def image_bytes(self, sha: str) -> bytes:
        """The bytes of an image file, which still hash to `sha`.

        Raises:
            BadData: when the file is gone or has changed since the data was read.
        """
        path = self.image_paths[sha]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadData(f"{path}: the image cannot be read: {error.strerror}") from error
        if sha256_hex(data) != sha:
            raise BadData(f"{path}: the image has changed since the data was read")
        return data

    def open_image(self, sha: str) -> Image.Image:
        """The image as 8-bit RGB, upright, transparency over white."""
        return decode(self.image_bytes(sha))


@dataclass(frozen=True)
class Reading:
    """How data files are read.

    format: of the files, `auto` for by their shape (`data.format`). embedded: the folder that
    pictures inside data files are written to; None: such data are refused. max_bad_rows: rows that
    may be left out because they cannot be used; None: any number. train, validation: the splits
    that share no image with any other; only `train` may hold unlabelled rows. published: keep the
    cells of published rows as they are, for what our columns have no place for. all_unlabelled:
    every row is taken for an unlabelled one, whatever it says.
    """

    format: str = AUTO
    embedded: Path | None = None
    max_bad_rows: int | None = 0
    train: str = "train"
    validation: str = "validation"
    published: bool = False
    all_unlabelled: bool = False

    @property
    def may_be_unlabelled(self) -> str | None:
        """The split that alone may hold unlabelled rows; None: any may."""
        return None if self.all_unlabelled else self.train


def read_dataset(
    path: str | os.PathLike[str],
    reading: Reading,
    *,
    usual: Sequence[str] = (),
    limits: Limits | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """A data set whose rows are checked, alone and together, in its own splits ("" without any).

    usual: splits of which a folder has to hold one; none: whatever splits it has.

    Raises:
        BadData: listing every bad row by file and line, up to `limits.listed` of them, where there
            are more than may be.
    """
    limits, root = limits or Limits(), Path(path)
    problems = Problems(limits.listed)
    reader = RowReader(problems, reading.format, reading.embedded, keeps=reading.published)
    files = data_files(root, usual)
    hidden = {"unlabelled": True} if reading.all_unlabelled else {}
    entries = [checked(row, values | hidden, problems) for row, values in reader.read(files)]
    entries, images = hash_images(entries, limits, problems, progress)
    found, places, duplicates = assemble(entries, problems, reading.may_be_unlabelled)
    bad = problems.bad_places()
    queries = [query for place, query in found if place not in bad]
    if not queries or (reading.max_bad_rows is not None and len(bad) > reading.max_bad_rows):
        problems.raise_if_any(root, unknown_column, _ALLOWED if reader.forms else "")
    shown = {sha for query in queries for sha in query.images}
    return Dataset(
        queries=queries,
        image_paths={sha: file for sha, file in images.paths.items() if sha in shown},
        places=places,
        duplicates=duplicates,
        image_sizes=images.sizes,
        warnings=(*images.warnings(), *doubts(entries), *_left_out(bad, reader)),
        bad=problems.bad_rows(unknown_column),
        forms=tuple(reader.forms.values()),
        published=reader.published,
    )


_ALLOWED = (
    "; `mstar-ray data inspect` counts them by reason, and as many as data.max_bad_rows (of `data "
    "convert`: --max-bad-rows) says may be left out"
)


def _left_out(bad: Collection[Place], reader: RowReader) -> Iterator[str]:
    if bad:
        yield f"rows left out because they cannot be used (data.max_bad_rows): {len(bad):,}"
    if reader.renamed:
        yield (
            "rows without an id, or with that of an earlier row, which go by file and row: "
            f"{reader.renamed:,}"
        )


def load_dataset(
    path: str | os.PathLike[str],
    reading: Reading | None = None,
    *,
    limits: Limits | None = None,
    sizes: Carve | None = None,
    paper_split: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Read and check a data set: a data file, or a folder of <split>.jsonl|parquet.

    `sizes` counts only when the data brings no splits; with `paper_split` the data must bring none,
    and is split as in the paper. `progress` gets the number of images checked so far.

    Raises:
        BadData: listing every bad row by file and line, up to `limits.listed` of them.
    """
    limits, reading, sizes = limits or Limits(), reading or Reading(), sizes or Carve()
    usual = (*SPLITS, reading.train, reading.validation)
    data = read_dataset(path, reading, usual=usual, limits=limits, progress=progress)
    has_splits = data.queries[0].split != ""
    if paper_split and has_splits:
        raise BadData(
            f"{path}: data.split = mstar splits data as the paper does, and these come in splits "
            "of their own; give one file without a split column, or leave data.split out"
        )
    if paper_split:
        data.queries = mstar_split(data.queries, sizes.seed)
    elif not has_splits:
        data.queries = carve(data.queries, sizes)
    apart = (reading.train, reading.validation)
    check_disjoint(data.queries, data.places, data.image_paths, apart=apart, listed=limits.listed)
    return data


def with_unlabelled(
    data: Dataset, path: str | os.PathLike[str], reading: Reading, limits: Limits
) -> Dataset:
    """A data set and, as unlabelled rows of its training split, the questions of another file or
    folder: of one that comes in splits, those of its training split.

    No row of it needs an answer; one that is there is hidden. A query id that the data set has
    already is given the name of the file besides.

    Raises:
        BadData: rows that cannot be used; no question to train on; one that shows an image of the
            validation or of a test split.
    """
    if not os.path.exists(path):
        raise BadData(f"{path}: no such file or folder (data.unlabelled)")
    more = read_dataset(path, replace(reading, all_unlabelled=True), limits=limits)
    pool = [query for query in more.queries if query.split in ("", reading.train)]
    if not pool:
        there = ", ".join(sorted({query.split for query in more.queries}))
        raise BadData(
            f"{path}: no question of the split {reading.train!r} (data.unlabelled); it has {there}"
        )
    stem, queries, places = Path(path).stem, list(data.queries), dict(data.places)
    for query in pool:
        name = f"{stem}/{query.query_id}" if query.query_id in data.places else query.query_id
        queries.append(replace(query, query_id=name, split=reading.train))
        places[name] = more.places[query.query_id]
    paths = more.image_paths | data.image_paths
    apart = (reading.train, reading.validation)
    check_disjoint(queries, places, paths, apart=apart, listed=limits.listed)
    return replace(
        data,
        queries=queries,
        places=places,
        image_paths=paths,
        image_sizes=more.image_sizes | data.image_sizes,
        duplicates=data.duplicates + more.duplicates,
        warnings=(*data.warnings, *more.warnings),
        bad=(*data.bad, *more.bad),
    )


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Make `folder` if it is not there, and prove that files can be written in it.

    Raises:
        BadData: naming the folder and why not.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"probe")
    except OSError as error:
        raise BadData(f"{folder}: cannot write in this folder: {error.strerror}") from error


def write_dataset(
    folder: str | os.PathLike[str], queries: Sequence[Query], images: Mapping[str, bytes]
) -> None:
    """Write `<split>.parquet` for each split and `images/<sha>.<suffix>` for each image used.

    The bytes are a function of the queries, their order within a split, and the version of pyarrow.

    Raises:
        BadData: when the queries would not load as they are (a repeated id, an image that is not
            in `images` or does not hash to its name, a shared image between splits), when the
            folder holds a data file of another data set, or when it cannot be written.
    """
    root = Path(folder)
    _check_queries(root, queries, images)
    splits = sorted({query.split for query in queries})
    check_writable(root / "images")
    present = {file.name for file in root.iterdir() if file.suffix in SUFFIXES}
    stray = present - {f"{split}.parquet" for split in splits}
    if stray:
        raise BadData(f"{root}: holds {', '.join(sorted(stray))} of another data set; remove it")
    for sha in sorted({sha for query in queries for sha in query.images}):
        _replace(root / "images" / f"{sha}.{suffix_of(images[sha])}", images[sha])
    for split in splits:
        rows = [_row_of(query) for query in queries if query.split == split]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), sink, compression="zstd")
        _replace(root / f"{split}.parquet", sink.getvalue())


def _row_of(query: Query) -> dict[str, Any]:
    row = {name: getattr(query, name) for name in _SCHEMA.names}
    row["images"] = list(query.images)
    row["choices"] = None if query.choices is None else list(query.choices)
    if query.choices is not None and query.answer is not None:
        # A bare letter that is also the text of a choice would read two ways.
        texts = {choice.upper() for choice in query.choices}
        row["answer"] = f"({query.answer})" if query.answer in texts else query.answer
    return row


def _check_queries(root: Path, queries: Sequence[Query], images: Mapping[str, bytes]) -> None:
    """Put the queries through what reading them back would put them through."""
    if not queries:
        raise BadData(f"{root}: there are no queries to write")
    problems = Problems(Limits().listed)
    used = dict.fromkeys(sha for query in queries for sha in query.images)
    image_problems = {sha: _given_problem(sha, images.get(sha)) for sha in used}
    entries: list[Entry] = []
    for number, query in enumerate(queries, start=1):
        place = Place(0, number, f"query {number} ({query.query_id!r})", str(root))
        problems.rows_seen += 1
        for sha in query.images:
            if (problem := image_problems[sha]) is not None:
                problems.note(place, f"its image {sha} {problem}")
        row = Row(place, root / f"{query.split}.parquet", query.split)
        values = {key: value for key, value in _row_of(query).items() if value is not None}
        draft = check_row(values, partial(problems.note, place))
        if draft is None:
            continue
        entries.append(Entry(row, draft, query.images))
        read_back = query_of(row, draft, query.images)
        for name in _SCHEMA.names:
            if getattr(read_back, name) != getattr(query, name):
                problems.note(place, f"its {name} would read back as {getattr(read_back, name)!r}")
    _, places, duplicates = assemble(entries, problems, "train")
    problems.raise_if_any(root, unknown_column)
    if duplicates:
        raise BadData(f"{root}: {duplicates} queries say the same as an earlier one")
    check_disjoint(queries, places, {})


def _given_problem(sha: str, data: bytes | None) -> str | None:
    if data is None:
        return "is not among the images given"
    if sha256_hex(data) != sha:
        return "is not the hash of the bytes given for it"
    return bytes_problem(data, Limits())


def _replace(path: Path, data: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    partial_path = path.with_name(f".{path.name}.partial")
    partial_path.write_bytes(data)
    partial_path.replace(path)
