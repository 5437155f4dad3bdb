"""A data set: its queries, the files of their images, reading both in and writing them out.

What `load_dataset` returns has been checked as a whole: every row means one thing, ids and contents
are unique, every image decodes and hashes to its name, and no split leaks into another by an image.
`write_dataset` writes the same bytes for the same queries, and they load as the same queries.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.datasets.cells import invalid_unicode
from pipeline.datasets.files import SPLITS, SUFFIXES, Place, Problems, Row, data_files, read_rows
from pipeline.datasets.images import (
    CheckedImage,
    Limits,
    bytes_problem,
    check_files,
    decode,
    suffix_of,
)
from pipeline.datasets.row_checks import (
    Draft,
    check_row,
    image_names,
    is_sha,
    unknown_column,
    unknown_columns,
)
from pipeline.datasets.splits import Carve, carve, check_disjoint
from pipeline.errors import BadData
from pipeline.grading.grade import Gold, grade_answer
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
    "check_writable",
    "load_dataset",
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
    """

    queries: list[Query]
    image_paths: dict[str, Path]
    places: dict[str, Place] = field(default_factory=dict)
    duplicates: int = 0
    image_sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

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
class _Entry:
    """A row on its way to a query: its fields and its images, None where they are not in order."""

    row: Row
    draft: Draft | None
    images: tuple[str, ...] | None


def load_dataset(
    path: str | os.PathLike[str],
    *,
    limits: Limits | None = None,
    sizes: Carve | None = None,
    train: str = "train",
    validation: str = "validation",
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Read and check a data set: a .jsonl or .parquet file, or a folder of <split>.jsonl|parquet.

    `sizes` counts only when the data brings no splits. `train` and `validation` are the splits
    that share no image with any other, and only `train` may hold unlabelled rows. `progress` gets
    the number of images that have been checked so far.

    Raises:
        BadData: listing every bad row by file and line, up to `limits.listed` of them.
    """
    limits, root = limits or Limits(), Path(path)
    problems = Problems(limits.listed)
    entries: list[_Entry] = []
    for row, values in read_rows(data_files(root, (*SPLITS, train, validation)), problems):
        entries.append(_checked(row, values, problems))
    entries, images = _hash_images(entries, limits, problems, progress)
    queries, places, duplicates = _assemble(entries, problems, train)
    problems.raise_if_any(root, unknown_column)
    if queries[0].split == "":
        queries = carve(queries, sizes or Carve())
    apart = (train, validation)
    check_disjoint(queries, places, images.paths, apart=apart, listed=limits.listed)
    warnings = (*images.warnings(), *_doubts(entries))
    return Dataset(queries, images.paths, places, duplicates, images.sizes, warnings)


def _checked(row: Row, values: dict[str, Any], problems: Problems) -> _Entry:
    note = partial(problems.note, row.place)
    if broken := invalid_unicode(values):
        for column in broken:
            note(f"{column!r} is not valid Unicode text (half of a surrogate pair)")
        return _Entry(row, None, None)
    problems.note_columns(row.place, unknown_columns(values))
    return _Entry(row, check_row(values, note), image_names(values, note))


def _doubts(entries: Sequence[_Entry]) -> Iterator[str]:
    """One warning for each kind of doubt, with the first row that has it."""
    rows: dict[str, list[Row]] = {}
    for entry in entries:
        if entry.draft is not None and entry.draft.doubt is not None:
            rows.setdefault(entry.draft.doubt, []).append(entry.row)
    for doubt, of in rows.items():
        more = f" and {len(of) - 1:,} more rows" if len(of) > 1 else ""
        yield f"{of[0].place.text}{more}: {doubt}"


@dataclass
class _Images:
    """The images of a data set by hash: the first file of each, its size, and which are blank."""

    paths: dict[str, Path] = field(default_factory=dict)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    blank: list[str] = field(default_factory=list)

    def add(self, file: str, checked: CheckedImage) -> None:
        """Take a file that passed."""
        assert checked.sha is not None
        if checked.sha in self.paths:
            return
        self.paths[checked.sha] = Path(file)
        self.sizes[checked.sha] = checked.size
        if checked.blank:
            self.blank.append(file)

    def warnings(self) -> Iterator[str]:
        """What may be wrong with images that can be used."""
        if self.blank:
            more = f" and {len(self.blank) - 1:,} more images" if len(self.blank) > 1 else ""
            yield (
                f"{self.blank[0]}{more}: of one colour throughout; transparent ground is shown "
                "white, so a white drawing on it cannot be seen"
            )


def _hash_images(
    entries: Sequence[_Entry],
    limits: Limits,
    problems: Problems,
    progress: Callable[[int], None] | None,
) -> tuple[list[_Entry], _Images]:
    """The entries with hashes for images, and those images; a file is read once."""
    # The data files of one data set stand in one folder.
    folder = os.path.dirname(entries[0].row.file) if entries else ""
    named = _files_by_stem(Path(folder, "images"))

    def file_of(image: str) -> str | None:
        return named.get(image) if is_sha(image) else os.path.join(folder, image)

    names = dict.fromkeys(image for entry in entries for image in entry.images or ())
    files = {image: file_of(image) for image in names}
    checked = check_files(dict.fromkeys(f for f in files.values() if f), limits, progress)
    images = _Images()
    hashed: list[_Entry] = []
    for entry in entries:
        shas: list[str] = []
        for image in entry.images or ():
            file = files[image]
            problem = _image_problem(image, file, checked)
            if problem is not None:
                problems.note(entry.row.place, problem)
            elif file is not None and (sha := checked[file].sha) is not None:
                shas.append(sha)
                images.add(file, checked[file])
        complete = entry.images is not None and len(shas) == len(entry.images)
        hashed.append(replace(entry, images=tuple(shas) if complete else None))
    return hashed, images


def _files_by_stem(folder: Path) -> dict[str, str]:
    if not folder.is_dir():
        return {}
    return {file.stem: str(file) for file in sorted(folder.iterdir()) if file.name[0] != "."}


def _image_problem(image: str, file: str | None, checked: Mapping[str, CheckedImage]) -> str | None:
    if file is None:
        return f"no file images/{image}.* beside the data"
    result = checked[file]
    if result.problem is not None:
        return f"the image {file} {result.problem}"
    if is_sha(image) and result.sha != image:
        return f"the image {file} does not hash to its name"
    return None


def _assemble(
    entries: Sequence[_Entry], problems: Problems, train: str
) -> tuple[list[Query], dict[str, Place], int]:
    """Queries from entries with hashed images, after the checks that need more than one row.

    Gives the queries (split "" when the data has no splits), the place of each id, and how many
    rows said what an earlier one says.
    """
    drafts = [(entry, entry.draft) for entry in entries if entry.draft is not None]
    any_id = any(draft.query_id for _, draft in drafts)
    any_split = any(draft.split or entry.row.file_split for entry, draft in drafts)
    queries: list[Query] = []
    by_id: dict[str, Place] = {}
    by_content: dict[str, tuple[Place, Query]] = {}
    duplicates = 0
    for entry, draft in drafts:
        row, query = entry.row, _query(entry.row, draft, entry.images or ())
        earlier = by_id.setdefault(query.query_id, row.place)
        if earlier is not row.place:
            problems.note(row.place, f"query_id {query.query_id!r} is that of {earlier.text} too")
        if any_id and draft.query_id is None:
            problems.note(row.place, "no query_id, and other rows have one")
        for problem in _split_problems(query, draft, row, any_split, train):
            problems.note(row.place, problem)
        if entry.images is None:
            continue  # what it asks is not known without its images
        place, same = by_content.setdefault(query.content_hash, (row.place, query))
        if same is query:
            queries.append(query)
        elif difference := _difference(same, query):
            problems.note(row.place, f"asks the same as {place.text}, and {difference}")
        else:
            duplicates += 1
    return queries, by_id, duplicates


def _split_problems(
    query: Query, draft: Draft, row: Row, any_split: bool, train: str
) -> Iterator[str]:
    if any_split and not query.split:
        yield "no split, and other rows have one"
    if draft.split and row.file_split and draft.split != row.file_split:
        yield f"split {draft.split!r} in the file of {row.file_split!r}"
    if query.split not in ("", train) and query.unlabelled:
        yield f"unlabelled, in {query.split}; only {train} may hold those"


def _query(row: Row, draft: Draft, images: tuple[str, ...]) -> Query:
    return Query(
        query_id=draft.query_id or row.default_id,
        images=images,
        question=draft.question,
        choices=draft.choices,
        answer=draft.answer,
        answer_type=draft.answer_type,
        unlabelled=draft.unlabelled,
        source=draft.source,
        split=draft.split or row.file_split or "",
    )


def _difference(one: Query, other: Query) -> str | None:
    """What two queries of the same content disagree on: downstream nothing tells them apart."""
    for name in ("split", "answer_type", "unlabelled", "answer"):
        a, b = getattr(one, name), getattr(other, name)
        if a != b and not (name == "answer" and _same_answer(one, other)):
            return f"its {name} is {b!r}, not {a!r}"
    return None


def _same_answer(one: Query, other: Query) -> bool:
    """Whether each answer is correct for the other, as `5` and `5.0` are."""
    if one.answer is None or other.answer is None:
        return False
    try:
        return all(
            grade_answer(answer, Gold("", gold, one.answer_type, one.choices)) == "correct"
            for answer, gold in ((one.answer, other.answer), (other.answer, one.answer))
        )
    except BadData:  # one of them is hidden, or a form that only the grader reads, and no answer
        return False


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
    entries: list[_Entry] = []
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
        entries.append(_Entry(row, draft, query.images))
        read_back = _query(row, draft, query.images)
        for name in _SCHEMA.names:
            if getattr(read_back, name) != getattr(query, name):
                problems.note(place, f"its {name} would read back as {getattr(read_back, name)!r}")
    _, places, duplicates = _assemble(entries, problems, "train")
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
