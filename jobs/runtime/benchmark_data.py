"""The data of a benchmark: where it lies, and its rows as questions that a policy is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jobs.runtime.cli import did_you_mean
from pipeline.datasets.dataset import Dataset, Reading, read_dataset
from pipeline.datasets.images import Limits
from pipeline.errors import BadConfig, BadData
from pipeline.grading.benchmarks.item import Benchmark, Item
from pipeline.grading.benchmarks.known import BENCHMARKS
from pipeline.query import Query

_SUFFIXES = (".parquet", ".tsv", ".json", ".jsonl")


@dataclass(frozen=True)
class Question:
    """What is asked (its text and images are what is hashed), what is right, and the row as a query
    of ours, which the strict grader compares with."""

    asked: Query
    item: Item
    ours: Query


@dataclass(frozen=True)
class Test:
    """A benchmark with its questions. left_out: rows of it that cannot be asked."""

    benchmark: Benchmark
    path: Path
    dataset: Dataset
    questions: tuple[Question, ...]
    left_out: int


def named(on: str) -> list[Benchmark]:
    """The benchmarks of a list with commas.

    Raises:
        BadConfig: there is none of a name, or the same twice.
    """
    names = [name.strip() for name in on.split(",") if name.strip()]
    for name in names:
        if name not in BENCHMARKS:
            raise BadConfig(f"--on {name}: no such benchmark{did_you_mean(name, BENCHMARKS)} "
                            f"There are {', '.join(BENCHMARKS)}")  # fmt: skip
    if not names or len(set(names)) != len(names):
        raise BadConfig(f"--on {on!r}: name benchmarks, each once: {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name] for name in names]


def place_of(benchmark: Benchmark, folder: Path, given: Mapping[str, Path]) -> Path:
    """Where a benchmark's data lie: as given, or under one of its names in a folder of benchmarks.

    Raises:
        BadConfig: it is not there, saying what was looked for.
    """
    if benchmark.name in given:
        return given[benchmark.name]
    names = (benchmark.name, *benchmark.files)
    tried = [folder / f"{name}{suffix}" for name in names for suffix in ("", *_SUFFIXES)]
    found = [path for path in tried if path.exists()]
    if len(found) == 1:
        return found[0]
    if found:
        raise BadConfig(f"{benchmark.name}: {' and '.join(map(str, found))} are both there; say "
                        f"which (--data {benchmark.name}=PATH)")  # fmt: skip
    raise BadConfig(
        f"{benchmark.name}: its data are not in {folder}: there is none of {', '.join(names)}, as "
        f"a folder or with {', '.join(_SUFFIXES)}; give their place (--data {benchmark.name}=PATH)"
    )


def load(benchmark: Benchmark, path: Path, embedded: Path, max_pixels: int) -> Test:
    """A benchmark's questions, each with the prompt of its own.

    Raises:
        BadConfig: the data are another benchmark's, lack its split, or hide the answers.
        BadData: a row is not as the benchmark has it.
    """
    how = Reading(embedded=embedded, max_bad_rows=None, train="", published=True)
    dataset = read_dataset(path, how, limits=Limits(max_pixels=max_pixels))
    forms = [form.name for form in dataset.forms] or ["own"]
    columns = {name for values in dataset.published.values() for name in values}
    if not set(forms) <= set(benchmark.forms) or not columns.issuperset(benchmark.needs):
        needs = f" with {', '.join(benchmark.needs)}" if benchmark.needs else ""
        raise BadConfig(
            f"{benchmark.name}: {path} is in the form {', '.join(forms)}; it is read from "
            f"{' or '.join(benchmark.forms)}{needs}"
        )
    queries = _of_split(benchmark, path, dataset)
    questions = []
    for query in queries:
        try:
            item = benchmark.item(dataset.published[query.query_id])
        except (ValueError, SyntaxError, KeyError) as error:
            place = dataset.where[query.query_id]
            raise BadData(f"{place}: not as {benchmark.title} has it: {error!r}") from error
        if item is not None:
            questions.append(Question(_asked(query, item, benchmark.name), item, query))
    if not questions:
        raise BadConfig(f"{benchmark.name}: {path} has no question that belongs to it")
    return Test(benchmark, path, dataset, tuple(questions), len(dataset.bad))


def _of_split(benchmark: Benchmark, path: Path, dataset: Dataset) -> list[Query]:
    splits = sorted({query.split for query in dataset.queries})
    mine = dataset.queries if splits == [""] else dataset.split(benchmark.split)
    if not mine:
        raise BadConfig(f"{benchmark.name}: {path} has no split {benchmark.split!r}; it has "
                        f"{', '.join(splits)}")  # fmt: skip
    labelled = [query for query in mine if not query.unlabelled]
    if not labelled:
        raise BadConfig(
            f"{benchmark.name}: the answers of {path} are hidden; take the split "
            f"{benchmark.split!r}, whose answers are published"
        )
    return labelled


def _asked(query: Query, item: Item, name: str) -> Query:
    """What is sent to the policy: the benchmark's own prompt, as one text."""
    return replace(query, question=item.prompt, choices=None, answer=item.answer,
                   answer_type="word", split=name)  # fmt: skip
