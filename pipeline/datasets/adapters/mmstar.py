"""MMStar as parquet: options inside the question's text, letter, category, embedded image."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Values, has, text_of
from pipeline.datasets.published_texts import asked, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    row = asked(
        without_placeholders(text_of(values, "question"), 1), None, text_of(values, "answer")
    )
    return {
        **row,
        "answer_type": "letter",  # also where the options cannot be told from the question
        "query_id": text_of(values, "index"),
        "images": [files.of(values.get("image"))],
        "source": text_of(values, "category") or "mmstar",
    }


FORM = Form(
    name="mmstar",
    says="columns question, answer, l2_category and meta_info",
    fits=lambda values: has(values, "question", "answer", "l2_category", "meta_info"),
    row=_row,
)
