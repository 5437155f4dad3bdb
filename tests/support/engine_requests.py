"""Requests to a generation engine, of prompts with none, one and two images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from actors.model.processor import Processor
from pipeline.generation.engine import SampleRequest
from tests.support.models import make_images

FILES = make_images(6)
IMAGES = tuple(FILES)


def ask(processor: Processor, count: int, **changes: Any) -> list[SampleRequest]:
    """`count` different requests with none, one or two images, one seed each."""
    made = []
    for number in range(count):
        images = IMAGES[number % 5 :][: number % 3]
        prompt = processor.prompt(f"What is the sum of row {number % 7}?", len(images))
        made.append(SampleRequest(prompt, images, seed=7919 * number + 5, max_new_tokens=24))
    return [replace(request, **changes) for request in made]
