"""Any other data with embedded images, as Hugging Face data sets have them: question and answer."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Values, text_of, texts_of
from pipeline.datasets.published_texts import (
    asked,
    bare_question,
    final_answer,
    without_placeholders,
)

_QUESTION, _IMAGE = ("question", "problem"), ("image", "images", "decoded_image")


def holds_image(value: Any) -> bool:
    """Whether a cell holds pictures: bytes, or a struct of bytes and path."""
    if isinstance(value, list):
        return any(map(holds_image, value))
    return isinstance(value, bytes) or (isinstance(value, dict) and "bytes" in value)


def _fits(values: Values) -> bool:
    columns = set(values)
    return (
        bool(columns & set(_QUESTION))
        and "answer" in columns
        and any(holds_image(values.get(name)) for name in _IMAGE)
    )


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = [path for name in _IMAGE for path in files.all_of(values.get(name))]
    choices = texts_of(values.get("choices", values.get("options")), "choices")
    question = bare_question(without_placeholders(text_of(values, *_QUESTION), len(images)))
    answer = text_of(values, "answer")
    return {
        **asked(question, choices or None, final_answer(answer) if answer else ""),
        "query_id": values.get("query_id", values.get("id")),
        "images": images,
        "source": text_of(values, "source", "category") or "user",
    }


FORM = Form(
    name="huggingface",
    says="columns question or problem, answer, and one of embedded images",
    fits=_fits,
    row=_row,
)
