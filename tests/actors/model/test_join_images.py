"""Image tensors of several prompts in one micro-batch, in the layouts that families have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from actors.model.join_images import CROSS_ATTENTION, joined, lengthened
from pipeline.errors import BadModel


def ones(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.full(shape, float(number)) for number, shape in enumerate(shapes, 1)]


def test_images_of_several_sizes_are_filled_up_where_their_sizes_are_told() -> None:
    """Mistral3 and Pixtral, whose model crops by them."""
    made = joined(
        {
            "pixel_values": ones((1, 3, 8, 16), (2, 3, 16, 8)),
            "image_sizes": [torch.tensor([[8, 16]]), torch.tensor([[16, 8], [8, 8]])],
        }
    )
    assert made["pixel_values"].shape == (3, 3, 16, 16)
    assert made["pixel_values"][0, :, :8].eq(1).all()
    assert made["pixel_values"][0, :, 8:].eq(0).all()
    assert made["pixel_values"][1:, :, :, :8].eq(2).all()
    assert made["image_sizes"].tolist() == [[8, 16], [16, 8], [8, 8]]


def test_patches_side_by_side_stay_side_by_side() -> None:
    """MiniCPM-V, whose tensor of all patches has a first axis of 1."""
    made = joined(
        {
            "pixel_values": ones((1, 3, 14, 28), (1, 3, 14, 42)),
            "target_sizes": [torch.tensor([[1, 2]]), torch.tensor([[1, 1], [1, 2]])],
        }
    )
    assert made["pixel_values"].shape == (1, 3, 14, 70)
    assert made["pixel_values"][..., :28].eq(1).all()
    assert made["pixel_values"][..., 28:].eq(2).all()
    assert made["target_sizes"].shape == (3, 2)


def test_rows_of_images_are_filled_up_to_the_most_images() -> None:
    """Idefics3 and SmolVLM."""
    made = joined(
        {
            "pixel_values": ones((1, 1, 3, 4, 4), (1, 3, 3, 4, 4)),
            "pixel_attention_mask": ones((1, 1, 4, 4), (1, 3, 4, 4)),
        }
    )
    assert made["pixel_values"].shape == (2, 3, 3, 4, 4)
    assert made["pixel_attention_mask"].shape == (2, 3, 4, 4)
    assert made["pixel_attention_mask"][0, 1:].eq(0).all()


def test_tiles_of_images_and_who_sees_them_are_filled_up() -> None:
    """Mllama, where every tensor has an axis of images."""
    short, long = ones((1, 4, 1, 2), (1, 3, 2, 2))
    seen = [lengthened(short, 6, 7), lengthened(long, 7, 7)]
    made = joined(
        {
            "pixel_values": ones((1, 1, 2, 3, 4, 4), (1, 2, 2, 3, 4, 4)),
            "aspect_ratio_ids": ones((1, 1), (1, 2)),
            "aspect_ratio_mask": ones((1, 1, 2), (1, 2, 2)),
            CROSS_ATTENTION: seen,
        }
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in made.items()}
    assert shapes == {
        "pixel_values": (2, 2, 2, 3, 4, 4),
        "aspect_ratio_ids": (2, 2),
        "aspect_ratio_mask": (2, 2, 2),
        CROSS_ATTENTION: (2, 7, 2, 2),
    }
    assert made["aspect_ratio_ids"].tolist() == [[1, 0], [2, 2]]
    assert made[CROSS_ATTENTION][0, :, 0, 0].tolist() == [1] * 6 + [0], "a response sees the image"
    assert made[CROSS_ATTENTION][0, :, 1].eq(0).all(), "and no image that its row does not have"


@pytest.mark.parametrize(
    "shapes",
    [((1, 3, 8, 8), (1, 3, 8, 16)), ((1, 2, 3, 4, 4), (1, 2, 3, 8, 4))],
)
def test_sizes_that_no_model_is_known_to_crop_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(BadModel, match=r"pixel_values of several sizes.*micro_batch to 1"):
        joined({"pixel_values": ones(*shapes)})


def test_patches_of_images_are_listed() -> None:
    """Qwen-VL and GLM-V."""
    made = joined(
        {
            "pixel_values": ones((4, 6), (8, 6)),
            "image_grid_thw": [torch.tensor([[1, 2, 2]]), torch.tensor([[1, 2, 4]])],
        }
    )
    assert made["pixel_values"][:, 0].tolist() == [1.0] * 4 + [2.0] * 8
    assert made["image_grid_thw"].tolist() == [[1, 2, 2], [1, 2, 4]]
