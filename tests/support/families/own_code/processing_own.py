"""A processor whose code lies in its model's folder."""

from __future__ import annotations

from typing import Any

from PIL import ImageOps
from transformers import Idefics3Processor


def _inverted(images: Any) -> Any:
    if isinstance(images, list | tuple):
        return [_inverted(each) for each in images]
    return ImageOps.invert(images.convert("RGB"))


class OwnProcessor(Idefics3Processor):
    """Idefics3's, of the negative of each picture."""

    def __call__(self, images: Any = None, **named: Any) -> Any:
        """As Idefics3's."""
        return super().__call__(images=None if images is None else _inverted(images), **named)

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **_: Any) -> Any:
        # Idefics3's would put what else vLLM gives it into the defaults of every later call.
        return super()._get_num_multimodal_tokens(image_sizes=image_sizes)
