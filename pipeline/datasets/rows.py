"""Rows of data files as rows of ours, whichever format they were published in.

The format of a file is that of its first row (`published`), or what `data.format` says. A row that
cannot be put into our form is a problem of that row; a file in no known format is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from pipeline.datasets.adapters.huggingface import holds_image
from pipeline.datasets.cells import is_absent, number_text
from pipeline.datasets.files import Problems, Row
from pipeline.datasets.published import AUTO, form_of
from pipeline.datasets.published_form import Form, ImageFiles, Unusable
from pipeline.datasets.row_checks import COLUMNS
from pipeline.datasets.tables import Rows, Values, read_table
from pipeline.errors import BadData

# An index that pandas wrote as a column: to parquet, to a text file, and by reset_index.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(?:\.\d+)?|index|level_\d")
_OURS = frozenset(COLUMNS)
# What data sets write where they have no id.
_NO_ID = ("", "-1")


@dataclass
class RowReader:
    """Reads data files into rows of ours.

    format: `data.format`. embedded: the folder that pictures inside data files are written to.
    forms: the published formats that were met, by name. renamed: rows whose published id is no id
        (missing, or that of an earlier row), which go by file and number.
    """

    problems: Problems
    format: str = AUTO
    embedded: Path | None = None
    forms: dict[str, Form] = field(default_factory=dict)
    renamed: int = 0
    published: dict[str, Values] = field(default_factory=dict)
    keeps: bool = False
    _ids: set[str] = field(default_factory=set)

    def read(
        self, files: Sequence[tuple[Path, str | None]]
    ) -> Iterator[tuple[Row, dict[str, Any]]]:
        """The rows of the files, in their order, each with its values but the absent (null, NaN).

        Raises:
            BadData: when a file as a whole cannot be read, or holds no rows.
        """
        for index, (file, split) in enumerate(files):
            table = read_table(file, index, self.problems)
            first = next(table, None)
            if first is None:
                continue  # every line is a problem
            if "messages" in first[1] and "answer" not in first[1]:
                raise BadData(f"{file}: {_CHAT}")
            indices = filter(_PANDAS_INDEX.fullmatch, first[1])
            form = form_of(file, first[1], self.format, _OURS.union(indices))
            pictures = ImageFiles(file, self.embedded)
            if file.suffix == ".tsv":
                for _, values in read_table(file, index, Problems(0)):
                    pictures.index(values)
            rows = chain([first], table)
            if form is None:
                yield from self._own(rows, file, split, pictures)
            else:
                self.forms[form.name] = form
                yield from self._published(form, rows, file, split, pictures)

    def _own(
        self, rows: Rows, file: Path, split: str | None, pictures: ImageFiles
    ) -> Iterator[tuple[Row, Values]]:
        for place, cells in rows:
            values = {k: v for k, v in _present(cells).items() if not _PANDAS_INDEX.fullmatch(k)}
            if holds_image(values.get("images")):
                try:
                    values["images"] = pictures.all_of(values["images"])
                except Unusable as error:
                    self.problems.note(place, str(error))
                    continue
            yield Row(place, file, split), values

    def _published(
        self, form: Form, rows: Rows, file: Path, split: str | None, pictures: ImageFiles
    ) -> Iterator[tuple[Row, Values]]:
        for place, values in rows:
            row = Row(place, file, split)
            try:
                ours = _present(form.row(_present(values), pictures))
            except Unusable as error:
                self.problems.note(place, f"{error} ({form.name})")
                continue
            except (TypeError, AttributeError, KeyError, ValueError, OverflowError) as error:
                # a cell of another type than the format has there
                self.problems.note(place, f"not as {form.name} has it: {error!r}")
                continue
            query_id = self._id(ours.get("query_id"), row)
            if self.keeps:
                self.published[query_id] = {
                    name: cell for name, cell in values.items() if not _is_picture(name, cell)
                }
            yield row, ours | {"query_id": query_id}

    def _id(self, published: Any, row: Row) -> str:
        text = published if isinstance(published, str) else number_text(published) or ""
        if text.strip() in _NO_ID or text in self._ids:
            self.renamed += 1
            text = row.default_id
        self._ids.add(text)
        return text


_CHAT = (
    "chat messages (a column messages), which are not read; write the user's turn as question and "
    "the answer alone as answer"
)


def _is_picture(name: str, cell: Any) -> bool:
    return holds_image(cell) or name == "image"


def _present(values: Values) -> Values:
    return {name: value for name, value in values.items() if not is_absent(value)}
