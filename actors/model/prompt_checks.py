"""Which queries the policy's own processor refuses, found before any engine starts.

What decides is the size of an image, never its pixels: each size that occurs is tried once, with a
white picture. Prompts are tokenised only where they could be too long. So the time taken follows
the number of sizes, and is bounded: of very many, those furthest from a square, the largest and the
smallest are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from actors.model.processor import Processor
from pipeline.errors import BadData
from pipeline.query import Query

Size = tuple[int, int]
"""Width and height in pixels."""
Item = TypeVar("Item")

# About a minute of one core: pixels, and what a picture of hardly any costs besides.
TRIED_PIXELS = 500_000_000
_PIXELS_OF_A_CALL = 100_000
TOO_LONG = "leaves no room for a response"
"""In the reason of a query whose prompt does not fit the context."""
_SQUARE: Size = (64, 64)

# What image processors raise at sizes that nobody thought of, besides the ValueError of those that
# somebody did.
_REFUSALS = (ValueError, ArithmeticError, LookupError, RuntimeError, TypeError)


class PromptChecks:
    """What one policy's processor makes of prompts and of pictures of the sizes that occur.

    max_model_len: tokens of a prompt and its response; no prompt may fill it.
    """

    def __init__(self, processor: Processor, sizes: Mapping[str, Size], max_model_len: int) -> None:
        self._processor = processor
        self._sizes = sizes
        self._max_model_len = max_model_len
        tried = sizes_to_try(set(sizes.values()))
        self.untried = len(set(sizes.values())) - len(tried)
        self._tokens = {size: self._tokens_of(size) for size in tried}
        self._of_count: dict[int, int | str] = {}

    def _tokens_of(self, size: Size, count: int = 1) -> int | str:
        """The tokens that pictures of this size add to a prompt, or why they are refused."""
        from PIL import Image

        prompt = self._processor.prompt("?", count)
        try:
            made = self._processor.inputs(prompt, [Image.new("RGB", size, "white")] * count)
        except _REFUSALS as error:
            return str(error) or type(error).__name__
        return len(made["input_ids"][0]) - self._processor.length(prompt)

    def problem(self, query: Query, text: str, name: Callable[[str], str]) -> str | None:
        """Why `text` with a query's images cannot be asked, or None. name: of an image, by hash."""
        several = self._images_problem(len(query.images))
        if several is not None:
            return several
        added = 0
        for sha in query.images:
            tokens = self._tokens.get(self._sizes.get(sha, (0, 0)), 0)
            if isinstance(tokens, str):
                width, height = self._sizes[sha]
                return (
                    f"the policy's processor refuses the image {name(sha)} ({width}x{height}): "
                    f"{tokens}"
                )
            added += tokens
        try:
            prompt = self._processor.prompt(text, len(query.images))
        except BadData as error:
            return str(error)
        return self._length_problem(prompt, added)

    def _images_problem(self, count: int) -> str | None:
        """Why no query with so many images can be asked, or None.

        vLLM adds the same tokens for an image whatever others are there. Where a processor does
        not (LLaVA-OneVision shrinks several), engine and learner would read different prompts.
        """
        if count == 1:
            return None
        if count not in self._of_count:
            self._of_count[count] = self._tokens_of(_SQUARE, count)
        together = self._of_count[count]
        if isinstance(together, str):
            return f"the policy's processor refuses a prompt with {count} images: {together}"
        alone = self._of_count.setdefault(1, self._tokens_of(_SQUARE))
        if isinstance(alone, str) or together == count * alone:
            return None
        return (
            f"the policy's processor adds {alone} tokens for one image and {together} for {count} "
            "of the same size, and vLLM adds as many for each as for one: leave queries with "
            "several images out of the data, or take another model"
        )

    def _length_problem(self, prompt: str, added: int) -> str | None:
        # A token stands for a byte or more, so most prompts are short enough uncounted.
        if len(prompt.encode()) + added < self._max_model_len:
            return None
        length = self._processor.length(prompt) + added
        if length < self._max_model_len:
            return None
        return (
            f"asked with {length} tokens, {added} of them for its images, and "
            f"generate.max_model_len = {self._max_model_len} {TOO_LONG}"
        )


def sizes_to_try(sizes: Iterable[Size], pixels: int = TRIED_PIXELS) -> list[Size]:
    """The sizes to try within a budget of pixels: extremes of shape, area and side by turns."""
    orders = (
        sorted(sizes, key=lambda size: (-max(size) / min(size), size)),
        sorted(sizes, key=lambda size: (-size[0] * size[1], size)),
        sorted(sizes, key=lambda size: (min(size), size)),
    )
    chosen: dict[Size, None] = {}
    for size in _by_turns(orders):
        if size in chosen:
            continue
        pixels -= size[0] * size[1] + _PIXELS_OF_A_CALL
        if pixels < 0:
            break
        chosen[size] = None
    return list(chosen)


def _by_turns(orders: Sequence[Sequence[Item]]) -> Iterator[Item]:
    for items in zip(*orders, strict=True):
        yield from items
