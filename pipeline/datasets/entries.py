"""Rows on their way to queries: each checked, their images hashed, then compared with each other.

Nothing here stops at the first problem: what is wrong with a row goes to `Problems`, and what needs
more than one row (ids, contents, splits) is checked of those that are in order themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.datasets.cells import invalid_unicode
from pipeline.datasets.files import Place, Problems, Row
from pipeline.datasets.images import CheckedImage, Limits, check_files
from pipeline.datasets.row_checks import Draft, check_row, image_names, is_sha, unknown_columns
from pipeline.errors import BadData
from pipeline.grading.grade import Gold, grade_answer
from pipeline.query import Query


@dataclass(frozen=True)
class Entry:
    """A row on its way to a query: its fields and its images, None where they are not in order."""

    row: Row
    draft: Draft | None
    images: tuple[str, ...] | None


def checked(row: Row, values: dict[str, Any], problems: Problems) -> Entry:
    """A row after all the checks that need no other row; what is wrong with it goes to
    `problems`."""
    note = partial(problems.note, row.place)
    if broken := invalid_unicode(values):
        for column in broken:
            note(f"{column!r} is not valid Unicode text (half of a surrogate pair)")
        return Entry(row, None, None)
    problems.note_columns(row.place, unknown_columns(values))
    return Entry(row, check_row(values, note), image_names(values, note))


def doubts(entries: Sequence[Entry]) -> Iterator[str]:
    """One warning for each kind of doubt, with the first row that has it."""
    rows: dict[str, list[Row]] = {}
    for entry in entries:
        if entry.draft is not None and entry.draft.doubt is not None:
            rows.setdefault(entry.draft.doubt, []).append(entry.row)
    for doubt, of in rows.items():
        more = f" and {len(of) - 1:,} more rows" if len(of) > 1 else ""
        yield f"{of[0].place.text}{more}: {doubt}"


@dataclass
class Images:
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


def hash_images(
    entries: Sequence[Entry],
    limits: Limits,
    problems: Problems,
    progress: Callable[[int], None] | None,
) -> tuple[list[Entry], Images]:
    """The entries with hashes for images, and those images; a file is read once."""
    # The data files of one data set stand in one folder.
    folder = os.path.dirname(entries[0].row.file) if entries else ""
    named = _files_by_stem(Path(folder, "images"))

    def file_of(image: str) -> str | None:
        return named.get(image) if is_sha(image) else os.path.join(folder, image)

    names = dict.fromkeys(image for entry in entries for image in entry.images or ())
    files = {image: file_of(image) for image in names}
    checked = check_files(dict.fromkeys(f for f in files.values() if f), limits, progress)
    images = Images()
    hashed: list[Entry] = []
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


def assemble(
    entries: Sequence[Entry], problems: Problems, train: str | None
) -> tuple[list[tuple[Place, Query]], dict[str, Place], int]:
    """Queries from entries with hashed images, after the checks that need more than one row.

    Gives the queries (split "" when the data has no splits) with their rows, the place of each id,
    and how many rows said what an earlier one says. train: the split that alone may hold unlabelled
    rows; None: any may.
    """
    drafts = [(entry, entry.draft) for entry in entries if entry.draft is not None]
    any_id = any(draft.query_id for _, draft in drafts)
    any_split = any(draft.split or entry.row.file_split for entry, draft in drafts)
    queries: list[tuple[Place, Query]] = []
    by_id: dict[str, Place] = {}
    by_content: dict[str, tuple[Place, Query]] = {}
    duplicates = 0
    for entry, draft in drafts:
        row, query = entry.row, query_of(entry.row, draft, entry.images or ())
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
            queries.append((row.place, query))
        elif difference := _difference(same, query):
            problems.note(row.place, f"asks the same as {place.text}, and {difference}")
        else:
            duplicates += 1
    return queries, by_id, duplicates


def _split_problems(
    query: Query, draft: Draft, row: Row, any_split: bool, train: str | None
) -> Iterator[str]:
    if any_split and not query.split:
        yield "no split, and other rows have one"
    if draft.split and row.file_split and draft.split != row.file_split:
        yield f"split {draft.split!r} in the file of {row.file_split!r}"
    if train is not None and query.split not in ("", train) and query.unlabelled:
        yield f"unlabelled, in {query.split}; only {train} may hold those"


def query_of(row: Row, draft: Draft, images: tuple[str, ...]) -> Query:
    """The query of a row that is in order; split "" where neither row nor file says one."""
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
