"""verl's rows for reinforcement learning: prompt as chat messages, reward_model with the answer."""

from __future__ import annotations

from typing import Any

from pipeline.datasets.published_form import Form, ImageFiles, Unusable, Values, has, text_of
from pipeline.datasets.published_texts import asked, bare_question, unboxed, without_placeholders


def _row(values: Values, files: ImageFiles) -> dict[str, Any]:
    extra = values.get("extra_info") or {}
    reward = values.get("reward_model") or {}
    prompt = values.get("prompt")
    if not isinstance(reward, dict) or not isinstance(extra, dict):
        raise Unusable("reward_model or extra_info is no object")
    turns = [t for t in prompt if t.get("role") != "system"] if isinstance(prompt, list) else []
    if len(turns) != 1 or turns[0].get("role") != "user":
        raise Unusable("its prompt is not one message of a user")
    answer = text_of(reward, "ground_truth")
    if not answer:
        raise Unusable("no reward_model.ground_truth")
    images = files.all_of(values.get("images"))
    # The question as it was before a recipe added how to answer, where that was kept.
    text = text_of(extra, "question") or text_of(turns[0], "content")
    return {
        **asked(bare_question(without_placeholders(text, len(images))), None, unboxed(answer)),
        "query_id": extra.get("index"),
        "images": images,
        "source": text_of(values, "data_source") or "verl",
    }


FORM = Form(
    name="verl",
    says="columns prompt and reward_model",
    fits=lambda values: has(values, "prompt", "reward_model"),
    row=_row,
)
