"""Queries that a policy's processor refuses are found by the sizes of their images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import Qwen2VLImageProcessorPil

from actors.model.processor import Processor, load_processor
from actors.model.prompt_checks import TRIED_PIXELS, PromptChecks, sizes_to_try
from pipeline.query import Query
from tests.support.models import make_policy

QUERY = Query("q", ("a" * 64,), "How many?", None, "3", "number")
SHA = QUERY.images[0]


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return load_processor(make_policy(tmp_path_factory.mktemp("policy") / "policy", 0))


class WithQwenImages(Processor):
    """A policy whose pictures go through Qwen2-VL's own image processor."""

    pixels = Qwen2VLImageProcessorPil()

    def inputs(self, prompt: str, images: Any) -> dict[str, Any]:
        grid = self.pixels(list(images), return_tensors="pt")["image_grid_thw"]
        made = super().inputs(prompt, [Image.new("RGB", (8, 8)) for _ in images])
        tokens = int(grid.prod(-1).sum()) // self.pixels.merge_size**2
        return {"input_ids": [[*made["input_ids"][0], *[0] * (tokens - 4 * len(images))]]}


@pytest.fixture
def qwen(processor: Processor) -> Processor:
    return WithQwenImages(processor.folder, processor._processor, processor.config)


def problem(processor: Processor, size: tuple[int, int], most: int = 4096, **change: Any) -> str:
    checks = PromptChecks(processor, {SHA: size}, most)
    query = replace(QUERY, **change)
    return checks.problem(query, query.question, lambda sha: f"{sha[:4]}.png") or ""


@pytest.mark.parametrize("size", [(1, 5000), (20_000, 2), (3000, 10)])
def test_a_shape_that_qwen_refuses_is_named_with_its_file(
    qwen: Processor, size: tuple[int, int]
) -> None:
    text = problem(qwen, size)
    assert f"refuses the image aaaa.png ({size[0]}x{size[1]}): absolute aspect ratio" in text


def test_a_picture_of_too_many_tokens_is_named(qwen: Processor) -> None:
    assert problem(qwen, (448, 448)) == ""
    text = problem(qwen, (4000, 3000), most=1000)
    assert "tokens, 1232 of them for its images, and generate.max_model_len = 1000" in text


def test_the_count_is_that_of_the_processor(processor: Processor) -> None:
    """The longest limit that is refused is the prompt's own length."""
    for images in (0, 1, 3):
        query = replace(QUERY, images=QUERY.images * images)
        prompt = processor.prompt(query.question, images)
        pictures = [Image.new("RGB", (40, 30)) for _ in range(images)]
        length = len(processor.inputs(prompt, pictures)["input_ids"][0])
        assert f"asked with {length} tokens" in problem(
            processor, (40, 30), length, images=query.images
        )
        assert problem(processor, (40, 30), length + 1, images=query.images) == ""


def test_a_long_text_and_a_special_token_are_found_too(processor: Processor) -> None:
    assert "5 of them" not in problem(processor, (8, 8), question="word " * 10)
    assert "asked with" in problem(processor, (8, 8), 200, question="word " * 300)
    assert "'<end_of_utterance>', a special token" in problem(
        processor, (8, 8), question="a <end_of_utterance>"
    )


def test_an_image_of_unknown_size_is_not_judged(processor: Processor) -> None:
    assert problem(processor, (8, 8), images=("b" * 64,)) == ""


def test_of_too_many_sizes_the_extremes_are_tried(tmp_path: Path) -> None:
    usual = {(500 + i, 400 + j) for i in range(100) for j in range(100)}
    odd = {(1, 5000), (9000, 9000), (2, 2)}
    tried = sizes_to_try(usual | odd)
    assert odd <= set(tried)
    assert len(tried) < len(usual)
    assert sum(width * height for width, height in tried) <= TRIED_PIXELS
    assert tried == sizes_to_try(sorted(usual | odd))
    assert set(sizes_to_try({(5, 5), (6, 5)})) == {(5, 5), (6, 5)}


class ShrinksSeveral(Processor):
    """A policy whose processor makes one token of each image where there are several."""

    def inputs(self, prompt: str, images: Any) -> dict[str, Any]:
        if not images:
            raise ValueError("`images` are expected")
        made = super().inputs(prompt, images)
        return made if len(images) == 1 else {"input_ids": made["input_ids"][:, : -3 * len(images)]}


def test_numbers_of_images_that_engine_and_learner_count_otherwise_are_named(
    processor: Processor,
) -> None:
    shrinks = ShrinksSeveral(processor.folder, processor._processor, processor.config)
    assert problem(shrinks, (64, 64)) == ""
    assert problem(processor, (64, 64), images=(SHA, SHA)) == ""
    said = problem(shrinks, (64, 64), images=(SHA, SHA))
    assert "tokens for one image and" in said
    assert "for 2 of the same size" in said
    said = problem(shrinks, (64, 64), images=())
    assert "refuses a prompt with 0 images: `images` are expected" in said
