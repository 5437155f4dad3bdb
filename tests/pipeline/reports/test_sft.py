"""Selected responses and step labels in the forms of others."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from pipeline.query import Query
from pipeline.records import StepValues
from pipeline.reports.sft import PARQUET, VERL, label_row, llava_row, parquet_row, verl_row


def png() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(out, "PNG")
    return out.getvalue()


def row(images: int, system: str = "") -> dict[str, Any]:
    return {
        "sample": "evolve/0:q1/3",
        "query_id": "q1",
        "prompt": "How many?\n(A) 1\n(B) 2",
        "system": system,
        "response": "One.\n\n# Answer\n\nA",
        "answer": "A",
        "gold": "A",
        "choices": ["1", "2"],
        "reward": 0.5,
        "policy": "p0",
        "images": [f"images/{number}" for number in range(images)],
    }


@pytest.mark.parametrize("images", [0, 1, 2])
def test_parquet_rows_fit_their_schemas_and_hold_the_pictures(images: int) -> None:
    data = [png()] * images
    mine = pa.Table.from_pylist([parquet_row(row(images), data)], PARQUET).to_pylist()[0]
    assert (mine["response"], mine["prompt"]) == (row(0)["response"], row(0)["prompt"])
    assert [image["bytes"] for image in mine["images"]] == data
    assert [image["path"] for image in mine["images"]] == [f"{i}.png" for i in range(images)]
    theirs = pa.Table.from_pylist([verl_row(row(images, "S"), data, "run")], VERL).to_pylist()[0]
    assert [turn["role"] for turn in theirs["prompt"]] == ["system", "user"]
    assert theirs["prompt"][1]["content"].count("<image>") == len(theirs["images"]) == images
    assert theirs["reward_model"] == {"style": "rule", "ground_truth": "A"}
    assert theirs["extra_info"]["answer"] == row(0)["response"]


def test_llava_rows_name_one_image_or_a_list() -> None:
    none, one, two = (
        llava_row(row(count), [f"images/{i}.png" for i in range(count)]) for count in range(3)
    )
    assert "image" not in none
    assert (one["image"], two["image"]) == ("images/0.png", ["images/0.png", "images/1.png"])
    assert two["conversations"][0]["value"].startswith("<image>\n<image>\nHow many?")
    assert [turn["from"] for turn in one["conversations"]] == ["human", "gpt"]
    assert llava_row(row(0, "S"), [])["conversations"][0] == {"from": "system", "value": "S"}


def test_labels_are_counts_of_completions_for_the_text_of_each_step() -> None:
    text = "First.\n\nSecond.\n\n# Answer\n\n3"
    ids = tuple(text.encode())
    values = StepValues(
        "q", "train-1", 2, "shards/rollout/a", "e" * 64, 9, False, True, ids, (8, 17),
        (0.25, 0.0), (4, 0),
    )  # fmt: skip
    query = Query("train-1", ("a" * 64,), "How many?", None, "4", "number")
    made = label_row(values, query, lambda tokens: bytes(tokens).decode())
    assert made["steps_with_score"] == [
        {"step": "First.", "score": 0.25, "num_mc_correct": 1, "num_mc_total": 4},
        {"step": "Second.", "score": 0.0, "num_mc_correct": 0, "num_mc_total": 0},
    ]
    assert (made["response"], made["answer"], made["correct"]) == (text, "4", False)
