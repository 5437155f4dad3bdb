"""`mstar-ray data`: what data sets are said to be, and that what is written loads as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.datasets.dataset import Reading, load_dataset, read_dataset
from tests.support import published
from tests.support.dataset_files import numbered, write_jsonl
from tests.support.jobs import mstar
from tests.support.published_files import embedded, write_parquet

Write = Callable[[Path], Path]

FIXTURES: list[tuple[Write, int]] = [
    (published.mathv360k, 3), (published.llava_cot, 1), (published.easyr1, 2),
    (published.virl39k, 1), (published.mmk12, 0), (published.mmmu, 3), (published.m3cot, 1),
    (published.mathvista_json, 0), (published.mathvista_parquet, 0), (published.mathvista_tsv, 0),
    (published.mathverse, 0), (published.ai2d, 1), (published.mmstar_parquet, 0),
    (published.mmbench, 3), (published.mmstar_tsv, 0), (published.ai2d_tsv, 0),
    (published.verl, 2),
]  # fmt: skip


@pytest.mark.parametrize(("write", "bad"), FIXTURES, ids=[one[0].__name__ for one in FIXTURES])
def test_every_published_form_is_inspected_and_converted(
    tmp_path: Path, write: Write, bad: int
) -> None:
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data")
    seen = mstar("data", "inspect", path)
    assert seen.exit_code == 0, seen.output
    assert f"{bad} cannot" in seen.output

    split = () if path.is_dir() else ("--split", "train")
    done = mstar("data", "convert", path, tmp_path / "out", "--max-bad-rows", str(bad), *split)
    assert done.exit_code == 0, done.output
    was = read_dataset(path, Reading(embedded=tmp_path / "pictures", max_bad_rows=None))
    now = read_dataset(tmp_path / "out", Reading())
    contents = {query.query_id: query.content_hash for query in was.queries}
    assert {query.query_id: query.content_hash for query in now.queries} == contents
    assert not now.forms
    if bad:
        refused = mstar("data", "convert", path, tmp_path / "other", *split)
        assert refused.exit_code == 2
        assert "rows cannot be used" in refused.output


def test_what_is_said_of_mathv360k(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    path = published.mathv360k(tmp_path / "a")
    vista = published.mathvista_parquet(tmp_path / "b")
    bad = tmp_path / "bad.jsonl"
    seen = mstar("data", "inspect", path, "--against", vista, "--bad-rows", bad).output
    for words in (
        "llava, told by a column conversations",
        "14: 11 can be used, 3 cannot, 0 say what an earlier one says",
        "number: 6, letter: 5; 0 hidden",
        "TabMWP: 4, IconQA: 3, CLEVR-Math: 2, GeoQA+: 2",
        "11 queries are from data sets that MathVista is made of too",
        # PNG here, JPEG there: other bytes and other pixels of the same pictures
        f"6 images show what one of {vista} shows; 11 of 11 queries",
        "row 12: its reply has several lines and none says the answer",
    ):
        assert words in seen
    assert [json.loads(line)["row"] for line in bad.read_text().splitlines()] == [11, 12, 14]


def test_queries_with_a_picture_of_a_test_set_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    rows = [{"question": f"{i}?", "answer": str(i), "image": embedded(i)} for i in range(40)]
    path = write_parquet(tmp_path / "a" / "data.parquet", rows)
    vista = published.mathvista_json(tmp_path / "b")
    done = mstar("data", "convert", path, tmp_path / "out", "--without", vista)
    assert done.exit_code == 0, done.output
    # MathVista's fixture shows the pictures 0 to 8
    assert f"show a picture of {vista}: 9" in done.output
    left = {query.question for query in load_dataset(tmp_path / "out").queries}
    assert left == {f"{i}?" for i in range(9, 40)}


def test_the_papers_split_is_written(tmp_path: Path) -> None:
    path = published.mathv360k(tmp_path, questions=60)
    done = mstar("data", "convert", path, tmp_path / "out", "--split", "mstar")
    assert done.exit_code == 0, done.output
    data = load_dataset(tmp_path / "out")
    half = [query for query in data.split("train") if not query.unlabelled]
    assert len(half) == 30
    assert len(data.split("test")) == len(data.split("validation")) == 6
    again = mstar("data", "convert", path, tmp_path / "again", "--split", "mstar")
    assert again.exit_code == 0
    for name in ("train", "validation", "test"):
        one, other = (tmp_path / at / f"{name}.parquet" for at in ("out", "again"))
        assert one.read_bytes() == other.read_bytes()


def test_a_split_that_is_no_name_and_data_with_splits_of_their_own(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "data.jsonl", numbered(20))
    done = mstar("data", "convert", file, tmp_path / "out", "--split", "val")
    assert (done.exit_code, "did you mean 'validation'?" in done.output) == (2, True)
    rows = write_jsonl(tmp_path / "split.jsonl", numbered(20, split="train"))
    done = mstar("data", "convert", rows, tmp_path / "out", "--split", "mstar")
    assert (done.exit_code, "these come in splits of their own" in done.output) == (2, True)
