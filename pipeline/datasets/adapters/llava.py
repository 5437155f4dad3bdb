"""LLaVA's conversations: MathV360K, LLaVA-CoT and other lists of turns with an image's path."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Unusable, Values, has, text_of
from pipeline.datasets.published_texts import (
    asked,
    bare_question,
    final_answer,
    without_placeholders,
)

_HUMAN, _MODEL = ("human", "user"), ("gpt", "assistant")


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    turns = _turns(values["conversations"])
    if len(turns) != 2 or turns[0][0] not in _HUMAN or turns[1][0] not in _MODEL:
        roles = ", ".join(role for role, _ in turns) or "none"
        raise Unusable(f"its turns are {roles}; read is one question and one reply (human, gpt)")
    named = files.all_of(values.get("images", values.get("image")))
    question = bare_question(without_placeholders(turns[0][1], len(named)))
    return {
        **asked(question, None, final_answer(turns[1][1])),
        "query_id": values.get("id"),
        "images": named,
        "source": text_of(values, "source") or _source(values.get("image")),
    }


def _turns(cell: Any) -> list[tuple[str, str]]:
    """Role and text of each turn but the system's."""
    if not isinstance(cell, list) or not all(isinstance(turn, dict) for turn in cell):
        raise Unusable("its conversations are no list of turns")
    pairs = [(text_of(t, "from", "role"), text_of(t, "value", "content")) for t in cell]
    return [pair for pair in pairs if pair[0] != "system"]


def _source(image: Any) -> str:
    """The data set that a picture of MathV360K is from: "TabMWP" of TabMWP/images/1.png."""
    parts = image.removeprefix("data_images/").split("/") if isinstance(image, str) else []
    return parts[0] if len(parts) > 1 else "llava"


FORM = Form(
    name="llava",
    says="a column conversations",
    fits=lambda values: has(values, "conversations"),
    row=_row,
    note="MathV360K is made of data sets that MathVista is made of too (Geometry3K, GeoQA+, "
    "TabMWP, IconQA, CLEVR-Math, …): compare images with `mstar-ray data inspect --against`",
)
