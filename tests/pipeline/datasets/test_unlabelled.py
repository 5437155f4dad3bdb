"""A second file of questions without answers: what joins the training split, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.checks import check
from pipeline.config.schema import Config
from pipeline.config.unread import unread
from pipeline.datasets.dataset import Dataset, Reading, load_dataset, with_unlabelled
from pipeline.datasets.images import Limits
from pipeline.errors import BadData
from pipeline.generation.shards import EngineIdentity
from pipeline.run.pools import UNLABELLED
from pipeline.run.spec import RunSpec
from tests.support.dataset_files import SHAS, png, write_jsonl


def main_data(folder: Path) -> Dataset:
    """Two labelled questions, and one of validation that shows an image."""
    splits: dict[str, list[dict[str, Any]]] = {
        "train": [{"query_id": "q1", "question": "a", "answer": "1"},
                  {"query_id": "q2", "question": "b", "answer": "2"}],
        "validation": [{"query_id": "v1", "question": "c", "answer": "3", "images": [SHAS[0]]}],
    }  # fmt: skip
    for split, rows in splits.items():
        write_jsonl(folder / f"{split}.jsonl", rows)
    for place in (folder, folder / "more"):
        (place / "images").mkdir(parents=True, exist_ok=True)
        for number in (0, 1):
            (place / "images" / f"{SHAS[number]}.png").write_bytes(png(number))
    return load_dataset(folder)


def joined(folder: Path, rows: list[dict[str, Any]], name: str = "more/pool.jsonl") -> Dataset:
    data = main_data(folder)
    path = write_jsonl(folder / name, rows)
    return with_unlabelled(data, path, Reading(), Limits())


ROWS: list[dict[str, Any]] = [
    {"query_id": "q1", "question": "d", "answer_type": "number", "images": [SHAS[1]]},
    {"query_id": "u2", "question": "e", "answer": "5"},
    {"query_id": "u3", "question": "b", "answer": "2"},
]


def test_its_questions_are_unlabelled_ones_of_the_training_split(tmp_path: Path) -> None:
    data = joined(tmp_path, ROWS)
    found = [(q.query_id, q.split, q.unlabelled, q.answer) for q in data.queries]
    assert found == [
        ("q1", "train", False, "1"),
        ("q2", "train", False, "2"),
        ("v1", "validation", False, "3"),
        ("pool/q1", "train", True, None),
        ("u2", "train", True, "5"),
        ("u3", "train", True, "2"),
    ]
    assert data.image_bytes(SHAS[1]) == png(1)
    assert data.where["pool/q1"].endswith("pool.jsonl:1")


def test_a_run_draws_what_is_not_labelled_elsewhere(tmp_path: Path) -> None:
    """u3 asks what q2 asks, whose answer is there."""
    config = Config.model_validate(
        {"unlabelled": {"use": "pseudo", "vote": "majority"}, "data": {"unlabelled": "x"}}
    )
    check(config)
    spec = RunSpec.of(config, joined(tmp_path, ROWS), EngineIdentity("e", "1", "p", 1, 1), "g")
    assert sorted(query.query_id for query in spec.splits[UNLABELLED]) == ["pool/q1", "u2"]
    assert sorted(query.query_id for query in spec.splits["train"]) == ["q1", "q2"]


def test_of_a_folder_in_splits_the_training_split(tmp_path: Path) -> None:
    data = main_data(tmp_path)
    more = tmp_path / "more"
    write_jsonl(more / "train.jsonl", [{"question": "x", "answer_type": "number"}])
    write_jsonl(more / "test.jsonl", [{"question": "y", "answer": "1"}])
    found = with_unlabelled(data, more, Reading(), Limits()).queries[3:]
    assert [(query.question, query.split) for query in found] == [("x", "train")]
    (more / "train.jsonl").unlink()
    with pytest.raises(BadData, match=r"no question of the split 'train' .* it has test"):
        with_unlabelled(data, more, Reading(), Limits())


def test_an_image_of_validation_is_refused_by_row(tmp_path: Path) -> None:
    with pytest.raises(BadData) as refused:
        joined(tmp_path, [{"question": "d", "answer_type": "number", "images": [SHAS[0]]}])
    assert "in train" in str(refused.value)
    assert "pool.jsonl:1" in str(refused.value)
    assert "in validation" in str(refused.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": ""}, "pool.jsonl:1"),
        ({"question": "d", "images": ["none.png"], "answer_type": "number"}, "none.png"),
    ],
)
def test_rows_that_cannot_be_used_are_refused(
    tmp_path: Path, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadData, match=words):
        joined(tmp_path, [row])


def test_where_unlabelled_queries_are_left_out_it_is_not_read() -> None:
    config = Config.model_validate({"data": {"unlabelled": "x"}})
    assert any("nothing reads data.unlabelled" in line for line in unread(config))
