"""Data sets before a run: `mstar-ray data inspect` says what they are, `convert` writes our form.

mstar-ray data inspect train_samples_all_tuning.json --against testmini.parquet
mstar-ray data convert MMBench_DEV_EN_V11.tsv mmbench --split test
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jobs.runtime.bad_rows import write_bad_rows
from jobs.runtime.cli import command, say
from pipeline.datasets.dataset import (
    Carve,
    Dataset,
    Reading,
    check_writable,
    load_dataset,
    read_dataset,
    write_dataset,
)
from pipeline.datasets.files import split_problem
from pipeline.datasets.lookalike import looks_of, pairs_between, queries_showing
from pipeline.datasets.published import AUTO
from pipeline.errors import BadConfig
from pipeline.reports.inspection import described

# Images, from which on checking them takes so long that it is said how far it is.
_MANY = 10_000


def inspect(
    path: Path, against: Sequence[Path], format_: str = AUTO, bad_rows: Path | None = None
) -> None:
    """Say what a data set is, and which of its pictures stand in the test sets `against`.

    Raises:
        BadData: nothing of it, or of a test set, can be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        how = Reading(format=format_, embedded=Path(folder), max_bad_rows=None)
        data = read_dataset(path, how, progress=_progress)
        others = {str(one): read_dataset(one, replace(how, format=AUTO)) for one in against}
        if bad_rows is not None:
            write_bad_rows(bad_rows, data.bad)
        for line in described(path, data, others):
            print(line, flush=True)


def _progress(images: int) -> None:
    if images >= _MANY:
        say(f"{images:,} images checked")


def convert(
    path: Path,
    out: Path,
    without: Sequence[Path] = (),
    *,
    split: str = "given",
    split_seed: int = 0,
    max_bad_rows: int = 0,
    format_: str = AUTO,
) -> None:
    """Write a data set as <split>.parquet and images/ into a folder, and say what was written.

    Raises:
        BadData: rows cannot be used, more than may be; the folder holds another data set.
        BadConfig: `split` is no name for one.
    """
    check_writable(out)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        how = Reading(format=format_, embedded=Path(folder), max_bad_rows=max_bad_rows)
        data = _in_splits(path, how, split, split_seed)
        for line in data.warnings:
            say(f"warning: {line}")
        looks = looks_of(data) if without else {}
        for one in without:
            others = read_dataset(one, replace(how, format=AUTO, max_bad_rows=None))
            gone = frozenset(queries_showing(data, pairs_between(looks, looks_of(others))))
            data.queries = [query for query in data.queries if query.query_id not in gone]
            say(f"queries left out that show a picture of {one}: {len(gone):,}")
        write_dataset(out, data.queries, ImageBytes(data))
    names = sorted({query.split for query in data.queries})
    counts = ", ".join(f"{name} {len(data.split(name)):,}" for name in names)
    print(f"{out}: {counts}; as data.path={out}")


def _in_splits(path: Path, how: Reading, split: str, seed: int) -> Dataset:
    if split in ("given", "mstar"):
        return load_dataset(
            path, how, sizes=Carve(seed=seed), paper_split=split == "mstar", progress=_progress
        )
    if problem := split_problem(split):
        raise BadConfig(f"--split {split}: {problem}")
    data = read_dataset(path, replace(how, train=split), progress=_progress)
    data.queries = [replace(query, split=split) for query in data.queries]
    return data


class ImageBytes(Mapping[str, bytes]):
    """The images of a data set by hash, each read when it is asked for: they need no memory."""

    def __init__(self, data: Dataset) -> None:
        self._data = data

    def __getitem__(self, sha: str) -> bytes:
        if sha not in self._data.image_paths:
            raise KeyError(sha)
        return self._data.image_bytes(sha)

    def __iter__(self) -> Iterator[str]:
        return iter(self._data.image_paths)

    def __len__(self) -> int:
        return len(self._data.image_paths)


if __name__ == "__main__":
    command("data")
