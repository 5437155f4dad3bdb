"""A family that cannot be trained or served is refused by its folder, before any engine starts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.model.family_checks import check_family
from actors.model.processor import Processor, load_processor
from pipeline.errors import BadModel
from tests.support.families.gemma3 import gemma3
from tests.support.families.llava import llava
from tests.support.models import change_config, make_policy


@pytest.fixture(scope="module")
def llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava") / "policy"
    llava(folder)
    return folder


def renamed(folder: Path, old: str, new: str) -> None:
    file = folder / "model.safetensors"
    tensors = {name.replace(old, new): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_a_tower_under_the_names_of_save_pretrained_is_refused(
    llava_folder: Path, tmp_path: Path
) -> None:
    check_family(load_processor(llava_folder), 4)
    saved = tmp_path / "saved"
    shutil.copytree(llava_folder, saved)
    renamed(saved, "vision_tower.vision_model.", "vision_tower.")
    with pytest.raises(BadModel, match=r"save_pretrained.*vLLM does not know vision_tower.embedd"):
        check_family(load_processor(saved), 4)


@pytest.mark.parametrize("of_its_text", [False, True])
def test_a_model_without_a_token_head_is_refused(tmp_path: Path, of_its_text: bool) -> None:
    """Also where only its language model's config says that the embedding is used instead."""
    folder = make_policy(tmp_path / "policy", 0)
    check_family(load_processor(folder), 4)
    ties = {"tie_word_embeddings": of_its_text}
    change_config(folder, {"tie_word_embeddings": False}, ties)
    with pytest.raises(BadModel, match=r"no lm_head.*in text_config and outside of it"):
        check_family(load_processor(folder), 4)


class OfNoClass:
    """The config of a model that transformers has no image-text-to-text class of."""

    model_type = "phi4_multimodal"
    tie_word_embeddings = True


def test_a_family_that_the_learner_has_no_class_for_is_refused(llava_folder: Path) -> None:
    loaded = load_processor(llava_folder)
    processor = Processor(loaded.folder, loaded._processor, OfNoClass())
    with pytest.raises(BadModel, match="no image-text-to-text model for phi4_multimodal"):
        check_family(processor, 4)


class OfItsOwnSize(Processor):
    """Makes a tensor of the picture's own size, and says nothing of that size."""

    def inputs(self, prompt: str, images: Any) -> dict[str, Any]:
        made = super().inputs(prompt, images)
        return made | {"pixel_values": torch.zeros(1, 3, images[0].height, images[0].width)}


def test_pictures_that_cannot_share_a_micro_batch_are_found(tmp_path: Path) -> None:
    loaded = load_processor(make_policy(tmp_path / "policy", 0))
    processor = OfItsOwnSize(loaded.folder, loaded._processor, loaded.config)
    check_family(processor, 1)
    with pytest.raises(BadModel, match="micro_batch to 1"):
        check_family(processor, 4)


def test_the_models_image_token_may_be_called_otherwise_by_its_processor(tmp_path: Path) -> None:
    """Gemma 3's processor calls so what it writes before an image."""
    gemma3(tmp_path / "gemma")
    processor = load_processor(tmp_path / "gemma")
    check_family(processor, 4)
    assert {"<start_of_image>", "<image_soft_token>"} <= set(processor.visual.values())
    config = json.loads((tmp_path / "gemma" / "config.json").read_text())
    (tmp_path / "gemma" / "config.json").write_text(
        json.dumps({**config, "mm_tokens_per_image": 9})
    )
    with pytest.raises(BadModel, match="makes 4 image tokens of a tile, its model 9 features"):
        load_processor(tmp_path / "gemma")
