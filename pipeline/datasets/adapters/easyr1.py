"""EasyR1's form of training data: problem, answer, images; Geometry3K, PAPO's ViRL39K."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Values, has, text_of
from pipeline.datasets.published_texts import asked, bare_question, unboxed, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    # Geometry3K has choices besides; what is asked wherever it is trained on is the open question.
    images = files.all_of(values.get("images", values.get("image")))
    question = bare_question(without_placeholders(text_of(values, "problem"), len(images)))
    return {
        **asked(question, None, unboxed(text_of(values, "answer"))),
        "query_id": values.get("id"),
        "images": images,
        "source": text_of(values, "source", "data_source", "category") or "easyr1",
    }


FORM = Form(
    name="easyr1",
    says="columns problem, answer and images",
    fits=lambda values: (
        has(values, "problem", "answer") and bool({"images", "image"} & set(values))
    ),
    row=_row,
)
