"""The image tensors of several prompts as those of one micro-batch, in every layout there is.

  one image or patch after another   (n, …)               Qwen-VL, GLM-V, InternVL, LLaVA, Gemma 3
  the same, of several sizes         (n, 3, H, W), with image_sizes               Mistral3, Pixtral
  patches side by side               (1, 3, side, all), with target_sizes                 MiniCPM-V
  images of a row, tiles of one      (n, most, 3, H, W)          Idefics3, SmolVLM, LLaVA-OneVision
  tiles of a row's images            (n, most, tiles, 3, H, W)                               Mllama

Always: what is filled up is filled with zeros, and only along axes that the model crops by the
sizes or masks beside them. Anything else is an error and never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.errors import BadModel

PIXELS, CROSS_ATTENTION = "pixel_values", "cross_attention_mask"


def joined(parts_by_name: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """What the processor made of each prompt's images, as what the model is given.

    Raises:
        BadModel: tensors whose sizes differ in a way that nothing here knows.
    """
    pixels = parts_by_name.get(PIXELS)
    axes = pixels[0].dim() if pixels else 0
    side_by_side = axes == 4 and "target_sizes" in parts_by_name
    made = {}
    for name, parts in parts_by_name.items():
        if side_by_side and name == PIXELS:
            made[name] = torch.cat(list(parts), dim=-1)
        else:
            filled = _filled_axes(name, parts[0].dim(), axes, "image_sizes" in parts_by_name)
            made[name] = _stacked(name, parts, filled)
    return made


def _filled_axes(name: str, axes: int, pixel_axes: int, sized: bool) -> tuple[int, ...]:
    """The axes along which a tensor may be filled up with zeros."""
    if pixel_axes == 6:
        return (2,) if name == CROSS_ATTENTION else (1,)
    if pixel_axes == 5:
        return (1,) if axes > 3 else ()
    return (2, 3) if sized and name == PIXELS and pixel_axes == 4 else ()


def _stacked(name: str, parts: Sequence[Tensor], filled: tuple[int, ...]) -> Tensor:
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    wide = []
    for part in parts:
        odd = [axis for axis, size in enumerate(largest, 1) if part.shape[axis] != size]
        if not set(odd) <= set(filled):
            shapes = sorted({tuple(part.shape) for part in parts})
            raise BadModel(
                f"the processor makes {name} of several sizes, {shapes}, which cannot be one "
                "micro-batch: set learn.micro_batch to 1"
            )
        whole = part.new_zeros((part.shape[0], *largest))
        whole[tuple(slice(size) for size in part.shape)] = part
        wide.append(whole)
    return torch.cat(wide)


def lengthened(mask: Tensor, read: int, padded: int) -> Tensor:
    """Which images each token of a row sees (1, P, images, tiles), for its response and padding
    too: a response sees what the prompt's last token does.

    read: tokens of prompt and response. padded: tokens of the longest row.
    """
    made = mask.new_zeros((1, padded, *mask.shape[2:]))
    made[:, :read] = mask[:, -1:]
    made[:, : mask.shape[1]] = mask
    return made
