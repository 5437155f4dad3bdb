"""M3CoT: question with context, choices, letter, rationale, domain and topic."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Values, has, text_of, texts_of
from pipeline.datasets.published_texts import asked, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    images = files.all_of(values.get("image"))
    parts = [text_of(values, "context"), text_of(values, "question")]
    question = without_placeholders("\n".join(filter(None, parts)), len(images))
    answer = text_of(values, "answer")
    return {
        **asked(question, texts_of(values.get("choices"), "choices"), answer and f"({answer})"),
        "query_id": values.get("id"),
        "images": images,
        "source": text_of(values, "domain") or "m3cot",
    }


FORM = Form(
    name="m3cot",
    says="columns question, choices, domain and topic",
    fits=lambda values: has(values, "question", "choices", "domain", "topic"),
    row=_row,
)
