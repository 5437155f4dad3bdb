"""MMMU: options as the text of a Python list, images in columns image_1 … image_7."""

from __future__ import annotations

import re
from typing import Any

from pipeline.datasets.cells import is_absent
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

_ID = re.compile(r"(?:dev|validation|test)_(.+)_\d+")
HIDDEN = "?"


def subject_of(values: Values) -> str:
    """The subject that an id names: "Accounting" of validation_Accounting_1."""
    match = _ID.fullmatch(text_of(values, "id"))
    return match[1] if match else "mmmu"


def images_of(values: Values, files: ImageFiles) -> list[str]:
    """The images of a row, image_1 first."""
    cells = [values.get(f"image_{number}") for number in range(1, 8)]
    return [files.of(cell) for cell in cells if not is_absent(cell)]


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = images_of(values, files)
    options = texts_of(values.get("options"), "options")
    answer = text_of(values, "answer")
    if answer.startswith("[") and not options:
        raise Unusable(f"it accepts several answers, {answer}; one is compared with")
    question = without_placeholders(text_of(values, "question"), len(images))
    return {
        **asked(question, options or None, "" if answer == HIDDEN else answer),
        "query_id": values.get("id"),
        "images": images,
        "source": subject_of(values),
    }


FORM = Form(
    name="mmmu",
    says="columns question, options and image_1",
    fits=lambda values: has(values, "question", "options", "image_1"),
    row=_row,
)
