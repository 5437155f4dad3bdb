"""ViRL39K: question, boxed answer, a list of image paths; several images, or none, in a row."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Values, has, text_of
from pipeline.datasets.published_texts import asked, bare_question, unboxed, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = files.all_of(values.get("image"))
    question = bare_question(without_placeholders(text_of(values, "question"), len(images)))
    return {
        **asked(question, None, unboxed(text_of(values, "answer"))),
        "query_id": values.get("qid"),
        "images": images,
        "source": text_of(values, "source", "category") or "virl39k",
    }


FORM = Form(
    name="virl39k",
    says="columns question, answer, image and qid",
    fits=lambda values: has(values, "question", "answer", "image", "qid"),
    row=_row,
)
