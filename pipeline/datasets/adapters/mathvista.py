"""MathVista: testmini.json by pid, its parquet files, and VLMEvalKit's table of it."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.cells import is_absent
from pipeline.datasets.published_form import Form, ImageFiles, Values, has, text_of, texts_of
from pipeline.datasets.published_texts import asked, to_places, without_placeholders
from pipeline.query import LETTERS


def picture(values: Values, files: ImageFiles) -> str:
    """The image: decoded, where the row holds it, else the file that it names."""
    decoded = values.get("decoded_image")
    return files.of(values.get("image") if is_absent(decoded) else decoded)


def precision_of(values: Values) -> int | None:
    """Decimal places of a float answer; parquet has a float there, which `round` does not take."""
    text = text_of(values, "precision")
    return int(float(text)) if text else None


def metadata_of(values: Values) -> dict[str, Any]:
    """What a row says of itself: source, task, category, … ; flat in VLMEvalKit's table."""
    nested = values.get("metadata")
    return nested if isinstance(nested, dict) else dict(values)


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    choices = texts_of(values.get("choices"), "choices")
    answer, question = text_of(values, "answer"), text_of(values, "question")
    unit, places = text_of(values, "unit"), precision_of(values)
    if unit:
        question += f" (Unit: {unit})"
    if text_of(values, "answer_type") == "float" and places is not None:
        question += f" ({to_places(places)})"
    if (
        choices.count(answer) == 1
    ):  # the text of a choice; that it may be a letter too decides nothing
        answer = f"({LETTERS[choices.index(answer)]})"
    row = asked(without_placeholders(question, 1), choices or None, answer)
    if text_of(values, "answer_type") == "list" and not choices:
        row |= {"answer_type": "list", "answer": answer.strip("[]") or None}
    return {
        **row,
        "query_id": text_of(values, "pid", "index"),
        "images": [picture(values, files)],
        "source": text_of(metadata_of(values), "source", "task") or "mathvista",
    }


FORM = Form(
    name="mathvista",
    says="columns question_type, answer_type and pid (in a .tsv: answer_option)",
    fits=lambda values: (
        has(values, "question_type", "answer_type") and bool({"pid", "answer_option"} & set(values))
    ),
    row=_row,
    note="a test set: the answers of its split test are hidden, those of testmini are not",
)
