"""AI2D as parquet: question, options, and the answer as an index counted from 0."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import (
    Form,
    ImageFiles,
    Unusable,
    Values,
    has,
    text_of,
    texts_of,
)
from pipeline.datasets.published_texts import asked, without_placeholders
from pipeline.query import LETTERS


def letter_of(values: Values) -> str:
    """The letter of the option that the answer, an index from 0, names.

    Raises:
        Unusable: there is no such option.
    """
    options, answer = texts_of(values.get("options"), "options"), text_of(values, "answer")
    if not answer.isdecimal() or int(answer) >= len(options):
        raise Unusable(f"answer {answer!r} is no index, from 0, of its {len(options)} options")
    return LETTERS[int(answer)]


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    options = texts_of(values.get("options"), "options")
    question = without_placeholders(text_of(values, "question"), 1)
    return {
        **asked(question, options, f"({letter_of(values)})"),
        "images": [files.of(values.get("image"))],
        "source": "ai2d",
    }


FORM = Form(
    name="ai2d",
    says="columns question, options, answer and image",
    fits=lambda values: has(values, "question", "options", "answer", "image"),
    row=_row,
    note="figures depend on whether letters are burnt into the images (AI2D_TEST) or not "
    "(AI2D_TEST_NO_MASK); this file does not say which",
)
