"""Published formats that are not read yet: refused once, by name, with a way out that works."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.dataset import load_dataset
from tests.support.dataset_files import GOOD, png, refusal, write_jsonl

DOCUMENT = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURE = {"bytes": png(3), "path": "0.png"}
TURNS = [{"from": "human", "value": "<image>\nHow many?"}, {"from": "gpt", "value": "3"}]
LLAVA = {"id": "1", "image": "one.png", "conversations": TURNS}
VERL = {
    "data_source": "geometry3k",
    "prompt": [{"role": "user", "content": "<image>How many?"}],
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "3"},
}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (LLAVA, "LLaVA's format"),
        (VERL, "verl's format"),
        ({"messages": [{"role": "user", "content": "How many?"}]}, "chat messages"),
        ({"id": "1", "question": "<image 1>?", "options": "['a', 'b']", "image_1": {}}, "MMMU's"),
        ({"index": 1, "question": "?", "A": "x", "B": "y", "answer": "A"}, "VLMEvalKit's format"),
        ({**GOOD, "image": {"bytes": None, "path": "a.png"}}, "the column 'image' holds embedded"),
        ({**GOOD, "images": [{"bytes": "aGk=", "path": None}]}, "'images' holds embedded images"),
    ],
)
def test_a_jsonl_file_of_another_format_is_refused_once(
    tmp_path: Path, row: dict[str, Any], name: str
) -> None:
    file = write_jsonl(tmp_path / "data.jsonl", [row] * 30)
    text = refusal(file)
    assert text.startswith(f"{file}:1: ")
    assert name in text
    assert "docs/data.md, 'Published formats'" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"image": pa.array([PICTURE], IMAGE)}, "the column 'image' holds embedded images"),
        ({"images": pa.array([[PICTURE]], pa.list_(IMAGE))}, "the column 'images' holds embedded"),
        ({"decoded_image": pa.array([None], IMAGE)}, "the column 'decoded_image' holds embedded"),
        ({"image": pa.array([png(3)], pa.binary())}, "the column 'image' holds embedded images"),
        ({"image_1": pa.array([PICTURE], IMAGE), "options": ["['a', 'b']"]}, "MMMU's format"),
        ({"conversations": pa.array([TURNS])}, "LLaVA's format"),
        ({key: pa.array([value]) for key, value in VERL.items()}, "verl's format"),
    ],
)
def test_a_parquet_file_of_another_format_is_refused_by_its_columns(
    tmp_path: Path, columns: dict[str, Any], name: str
) -> None:
    file = tmp_path / "data.parquet"
    pq.write_table(pa.table({"question": ["?"], "answer": ["1"], **columns}), file)
    text = refusal(file)
    assert text.startswith(f"{file}: ")
    assert name in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MMBench.tsv", "tab-separated values, as VLMEvalKit has them"),
        ("train.json", "as LLaVA's data come"),
        ("data.csv", "pandas.read_csv"),
        ("data.txt", "a data file is .jsonl"),
    ],
)
def test_a_file_of_another_kind_says_which(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_text("x")
    assert words in refusal(tmp_path / name)
    assert "a data file is .jsonl" in refusal(tmp_path / name)
    if name != "data.txt":
        text = refusal(tmp_path)
        assert "no .jsonl or .parquet file in this folder" in text
        assert words in text


def llava(folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "pictures" / "one.png").write_bytes(png(3))
    (folder / "train.json").write_text(json.dumps([{**LLAVA, "image": "pictures/one.png"}]))


def embedded(folder: Path) -> None:
    columns = {"problem": ["How many?"], "answer": ["3"], "image": pa.array([PICTURE], IMAGE)}
    pq.write_table(pa.table(columns), folder / "train.parquet")


def vlmevalkit(folder: Path) -> None:
    picture = base64.b64encode(png(3)).decode()
    rows = [
        ("index", "question", "A", "B", "C", "answer", "image"),
        ("7", "How many?", "3", "4", "", "A", picture),
    ]
    (folder / "bench.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))


def mmmu(folder: Path) -> None:
    columns = {
        "question": ["<image 1> How many?"],
        "options": ["['3', '4']"],
        "answer": ["A"],
        "image_1": pa.array([PICTURE], IMAGE),
        "image_2": pa.array([None], IMAGE),
    }
    pq.write_table(pa.table(columns), folder / "train.parquet")


def verl(folder: Path) -> None:
    columns = {key: pa.array([value]) for key, value in VERL.items()}
    columns["images"] = pa.array([[PICTURE]], pa.list_(IMAGE))
    pq.write_table(pa.table(columns), folder / "train.parquet")


@pytest.mark.parametrize("write", [llava, embedded, vlmevalkit, mmmu, verl])
def test_the_documented_conversion_gives_data_that_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    """The lines of docs/data.md, as they stand there."""
    write(tmp_path)
    (code,) = re.findall(rf"```python\n(# {write.__name__}\b.*?)```", DOCUMENT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (query,) = load_dataset(tmp_path / "mine.jsonl").queries
    assert query.question == "How many?"
    assert (query.answer, query.answer_type) in (("3", "number"), ("A", "letter"))
    assert len(query.images) == 1
