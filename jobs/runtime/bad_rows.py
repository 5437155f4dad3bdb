"""`--bad-rows FILE`: every bad row of a data set as a line of JSON; a message lists the first.

    {"file": "my.jsonl", "row": 2, "reasons": ["no answer; …"]}

row: the line of a JSONL file, the number (from 1) in a parquet file. The file is empty when no row
is bad.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import BadConfig, BadData, BadRow, BadRows


@contextmanager
def bad_rows_to(path: Path | None) -> Iterator[None]:
    """Around the checks of a data set: write the rows they refuse; without a file, say how to.

    Raises:
        BadConfig: the file cannot be written, or holds something else.
        BadData: the rows' own error, with the file's name.
    """
    if path is not None:
        _check_ours(path)
        write_bad_rows(path, ())
    try:
        yield
    except BadRows as error:
        if path is not None:
            write_bad_rows(path, error.rows)
            raise BadData(f"{error}\n  all {len(error.rows)} are in {path}") from error
        if error.unlisted:
            raise BadData(f"{error}\n  --bad-rows FILE writes all of them to a file") from error
        raise


def _check_ours(path: Path) -> None:
    """Refuse to write over anything but bad rows: it may be the data."""
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8") as lines:
            first = next(lines, "")
        ours = not first or set(json.loads(first)) == set(BadRow._fields)
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise BadConfig(f"--bad-rows {path}: holds something else already; name another file")


def write_bad_rows(path: Path, rows: tuple[BadRow, ...]) -> None:
    """Write bad rows, one a line.

    Raises:
        BadConfig: the file cannot be written.
    """
    lines = (json.dumps(row._asdict(), ensure_ascii=True) + "\n" for row in rows)
    try:
        path.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise BadConfig(f"--bad-rows {path}: cannot be written: {error.strerror}") from error
