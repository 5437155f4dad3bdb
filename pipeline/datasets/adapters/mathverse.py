"""MathVerse: one problem in up to six versions, of which some show the question in the image."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Unusable, Values, has, text_of
from pipeline.datasets.published_texts import asked, bare_question, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = files.all_of(values.get("image"))
    # "Vision Only": what is asked stands in the image, and the query asks for the answer.
    text = text_of(values, "question", "query_wo")
    if not text:
        raise Unusable("no question, and no query_wo that asks for the one in the image")
    question = bare_question(without_placeholders(text, len(images)))
    row = asked(question, None, text_of(values, "answer"))
    if text_of(values, "question_type") == "multi-choice":
        row["answer_type"] = "letter"  # its choices may stand in the image
    return {
        **row,
        "query_id": values.get("sample_index"),
        "images": images,
        "source": text_of(values, "problem_version"),
    }


FORM = Form(
    name="mathverse",
    says="columns question, answer and problem_version",
    fits=lambda values: has(values, "answer", "problem_version"),
    row=_row,
    note="a test set: the versions of one problem share its image",
)
