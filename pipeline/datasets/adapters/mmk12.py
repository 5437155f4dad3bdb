"""MMK12: question with its options inside, answer, subject and one embedded image."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Values, has, text_of
from pipeline.datasets.published_texts import asked, bare_question, unboxed, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = files.all_of(values.get("image"))
    question = bare_question(without_placeholders(text_of(values, "question"), len(images)))
    return {
        **asked(question, None, unboxed(text_of(values, "answer"))),
        "query_id": values.get("id"),
        "images": images,
        "source": text_of(values, "subject") or "mmk12",
    }


FORM = Form(
    name="mmk12",
    says="columns question, answer, subject and image",
    fits=lambda values: has(values, "question", "answer", "subject", "image"),
    row=_row,
)
