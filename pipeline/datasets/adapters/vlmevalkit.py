"""VLMEvalKit's tables (.tsv): MMBench, MMStar, AI2D; a column for each choice, images in base64.

An image may be the index of another row, whose image it is (MMBench). Rows with an index of a
million and more are rotations of the choices of another row.
"""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Unusable, Values, has, text_of
from pipeline.datasets.published_texts import asked, without_placeholders
from pipeline.query import LETTERS

ROTATION = 1_000_000


def choices_of(values: Values) -> list[str]:
    """The choices, from column A on.

    Raises:
        Unusable: one in between is empty.
    """
    there = [letter for letter in LETTERS if text_of(values, letter)]
    if there != list(LETTERS[: len(there)]):
        raise Unusable(f"it has the choices {', '.join(there)}, and those between are empty")
    return [text_of(values, letter) for letter in there]


def images_of(values: Values, files: ImageFiles) -> list[str]:
    """The images: in base64, by another row's index, or as paths."""
    if "image" in values:
        return files.all_of(values["image"])
    paths = files.paths_of(values.get("image_path"))
    if not paths:
        raise Unusable("no image")
    return paths


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = images_of(values, files)
    parts = [text_of(values, "hint"), text_of(values, "question")]
    question = without_placeholders("\n".join(filter(None, parts)), len(images))
    answer = text_of(values, "answer")
    choices = choices_of(values) or None
    return {
        **asked(question, choices, f"({answer})" if answer in LETTERS and answer else answer),
        "query_id": text_of(values, "index"),
        "images": images,
        "source": text_of(values, "category", "l2-category") or "vlmevalkit",
    }


FORM = Form(
    name="vlmevalkit",
    says="columns index, question and a column for each of A, B, …",
    fits=lambda values: has(values, "index", "question") and has(values, "A", "B"),
    row=_row,
    note="of MMBench, rows from index 1,000,000 on are rotations of the choices of another row",
)
