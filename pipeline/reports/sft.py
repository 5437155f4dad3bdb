"""Selected responses in the forms that other trainers read, and step labels in VisualPRM's.

Forms: `parquet` (text and images, which `datasets` shows as pictures), `llava` (LLaVA's JSON beside
a folder of images), `verl` (rows of verl and EasyR1). A response is trained on under the question's
prompt, also one of the warm-up, so that is the prompt here. Rows are those of
`pipeline.reports.selected`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import pyarrow as pa

from pipeline.datasets.images import suffix_of
from pipeline.query import Query
from pipeline.records import StepValues

Row = Mapping[str, Any]
Form = Literal["jsonl", "parquet", "llava", "verl"]

PLACEHOLDER = "<image>"
_IMAGES = pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_TEXTS = ("sample", "query_id", "prompt", "response", "answer", "gold", "policy")


def _typed(columns: list[tuple[str, pa.DataType]]) -> pa.Schema:
    """A schema whose image column Hugging Face's `datasets` reads as pictures."""
    images = {"images": {"feature": {"_type": "Image"}, "_type": "List"}}
    plain: dict[str, Any] = {name: _feature(kind) for name, kind in columns if name != "images"}
    features = json.dumps({"info": {"features": plain | images}})
    return pa.schema(columns, metadata={"huggingface": features})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": "float64" if pa.types.is_float64(kind) else str(kind), "_type": "Value"}


PARQUET = _typed(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("choices", pa.list_(pa.string())),
        ("reward", pa.float64()),
        ("images", _IMAGES),
    ]
)
VERL = _typed(
    [
        ("data_source", pa.string()),
        ("prompt", _MESSAGES),
        ("images", _IMAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        (
            "extra_info",
            pa.struct(
                [(name, pa.string()) for name in ("split", "index", "question", "answer", "sample")]
            ),
        ),
    ]
)


def parquet_row(row: Row, images: Sequence[bytes]) -> dict[str, Any]:
    """A row of `PARQUET`: prompt and response as text, images as bytes."""
    kept = {name: row[name] for name in (*_TEXTS, "choices", "reward")}
    return kept | {"images": _embedded(row, images)}


def verl_row(row: Row, images: Sequence[bytes], name: str) -> dict[str, Any]:
    """A row of `VERL`: the response as the answer of `extra_info`. name: of the data source."""
    turns = [{"role": "user", "content": PLACEHOLDER * len(images) + row["prompt"]}]
    if row["system"]:
        turns.insert(0, {"role": "system", "content": row["system"]})
    return {
        "data_source": name,
        "prompt": turns,
        "images": _embedded(row, images),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": row["gold"]},
        "extra_info": {
            "split": "train",
            "index": row["query_id"],
            "question": row["prompt"],
            "answer": row["response"],
            "sample": row["sample"],
        },
    }


def llava_row(row: Row, names: Sequence[str]) -> dict[str, Any]:
    """An element of LLaVA's JSON array. names: of its images, from the folder of the array."""
    lines = [*(PLACEHOLDER for _ in names), row["prompt"]]
    turns = [
        {"from": "human", "value": "\n".join(lines)},
        {"from": "gpt", "value": row["response"]},
    ]
    if row["system"]:
        turns.insert(0, {"from": "system", "value": row["system"]})
    image = {"image": names[0] if len(names) == 1 else list(names)} if names else {}
    return {"id": row["sample"], **image, "conversations": turns}


def image_name(path: str, data: bytes) -> str:
    """The name of an image of the store beside the rows: its hash, and what it is."""
    return f"{path.rpartition('/')[2]}.{suffix_of(data)}"


def _embedded(row: Row, images: Sequence[bytes]) -> list[dict[str, Any]]:
    return [
        {"bytes": data, "path": image_name(path, data)}
        for path, data in zip(row["images"], images, strict=True)
    ]


def label_row(
    labelled: StepValues, query: Query, decode: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """Monte-Carlo values of a response's steps in the raw form of VisualPRM400K.

    decode: tokens to text. A step that was not measured (it comes after one of value 0) has no
    completions.
    """
    prefixes = ["", *(decode(labelled.token_ids[:end]) for end in labelled.step_ends)]
    steps_S = [after[len(before) :].strip() for before, after in pairwise(prefixes)]
    return {
        "image": [f"images/{sha}" for sha in query.images],
        "question": query.question,
        "answer": query.answer,
        "response": decode(labelled.token_ids),
        "correct": labelled.correct,
        "held_out": labelled.held_out,
        "steps_with_score": [
            {
                "step": step,
                "score": value,
                "num_mc_correct": round(value * completions),
                "num_mc_total": completions,
            }
            for step, value, completions in zip(
                steps_S, labelled.values, labelled.completions, strict=True
            )
        ],
    }
