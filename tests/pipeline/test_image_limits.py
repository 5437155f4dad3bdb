"""Limits on an image's tokens, as each family's own files say them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import config_from_dict
from pipeline.errors import BadModel
from pipeline.image_limits import limited_files
from pipeline.model_settings import FILE, ModelSettings, stored_settings
from pipeline.storage.models import publish_folder
from pipeline.storage.store import open_store
from pipeline.storage.trees import fetch_tree

Case = tuple[str, dict[str, Any], dict[str, Any], int, dict[str, Any]]
"""Family, its config besides, what is said of images, the limit, and what is said then."""

LIMIT = ModelSettings(max_image_tokens=256)
TOWER = {"patch_size": 14, "spatial_merge_size": 2, "image_size": 448}
OLD_QWEN = {"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2}
QWEN = {"size": {"shortest_edge": 65536, "longest_edge": 16777216}, "patch_size": 16,
        "merge_size": 2}  # fmt: skip
GLM = {"size": {"shortest_edge": 12544, "longest_edge": 9633792}, "temporal_patch_size": 2}
SMOL = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}


def write(folder: Path, model: dict[str, Any], image: dict[str, Any], *, inside: bool) -> Path:
    """A model's configuration. inside: its images are in processor_config.json, as newer ones."""
    folder.mkdir(exist_ok=True)
    name = "processor_config.json" if inside else "preprocessor_config.json"
    (folder / "config.json").write_text(json.dumps(model))
    whole = {"image_processor": image, "other": 1} if inside else image
    (folder / name).write_text(json.dumps(whole))
    return folder


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "case",
    [
        # A square of 28 pixels is a token; both ways of saying it, the smallest picture lower too.
        ("qwen2_5_vl", {}, OLD_QWEN, 256,
         {"max_pixels": 200704, "min_pixels": 3136,
          "size": {"longest_edge": 200704, "shortest_edge": 3136}}),
        ("qwen3_vl", {}, QWEN, 32, {"size": {"longest_edge": 32768, "shortest_edge": 32768}}),
        ("qwen3_vl", {}, QWEN, 99999, {"size": {"longest_edge": 16777216,
                                                "shortest_edge": 65536}}),
        # Pixels of both frames that a picture is counted as.
        ("glm4v", {}, GLM, 256, {"size": {"longest_edge": 401408, "shortest_edge": 12544}}),
        # 64 tokens a tile: 2 x 2 and the whole in 320; one alone in fewer than 320.
        ("smolvlm", {"scale_factor": 4}, SMOL, 320, {"size": {"longest_edge": 1024}}),
        ("idefics3", {"scale_factor": 4}, SMOL, 319, {"size": {"longest_edge": 512}}),
        ("smolvlm", {"scale_factor": 4}, SMOL, 64, {"size": {"longest_edge": 512}}),
        # 256 tokens a tile, the whole besides: 2 tiles are 768.
        ("internvl", {"downsample_ratio": 0.5}, {"max_patches": 12}, 768,
         {"max_patches": 2, "min_patches": 1}),
        ("internvl", {"downsample_ratio": 0.5}, {"max_patches": 12, "min_patches": 2}, 767,
         {"max_patches": 1, "min_patches": 1}),
        ("mistral3", {"spatial_merge_size": 2, "vision_config": TOWER | {"image_size": 1540}},
         {"size": {"longest_edge": 1540}}, 260,
         {"size": {"longest_edge": 16 * 28}}),
        ("llava", {"vision_config": TOWER | {"model_type": "pixtral", "patch_size": 16}},
         {"size": {"longest_edge": 1024}}, 256, {"size": {"longest_edge": 256}}),
    ],
)  # fmt: skip
def test_each_family_says_it_in_its_own_way(case: Case, inside: bool, tmp_path: Path) -> None:
    family, more, image, tokens, says = case
    tower = {**TOWER, "image_size": 512, "patch_size": 16} if "scale_factor" in more else TOWER
    model: dict[str, Any] = {"model_type": family, "vision_config": tower, **more}
    files = limited_files(write(tmp_path / "m", model, image, inside=inside), tokens)
    towers = files.pop("config.json", None)
    ((name, data),) = files.items()
    found = json.loads(data)
    part = found["image_processor"] if inside else found
    assert name == ("processor_config.json" if inside else "preprocessor_config.json")
    assert part == {**image, **says}
    assert found.get("other") == (1 if inside else None)
    # Where an engine takes the longer edge from the vision tower's config, that says the same.
    if family in ("mistral3", "llava"):
        assert towers is not None
        edge = says["size"]["longest_edge"]
        tower = {**model["vision_config"], "image_size": edge}
        assert json.loads(towers) == {**model, "vision_config": tower}
    else:
        assert towers is None


@pytest.mark.parametrize(
    ("family", "tokens", "reason"),
    [
        ("llava", 64, "as many tokens of every picture"),
        ("gemma3", 64, "as many tokens of every picture"),
        ("llava_onevision", 64, "image_grid_pinpoints"),
        ("minicpmv4_6", 64, "max_slice_nums"),
        ("unheard-of", 64, "not known here: crop, size"),
        ("internvl", 255, "makes 256 tokens of the smallest picture: give 256 or more"),
    ],
)
def test_a_family_without_such_a_limit_says_what_it_has(
    family: str, tokens: int, reason: str, tmp_path: Path
) -> None:
    model = {"model_type": family, "vision_config": TOWER, "downsample_ratio": 0.5}
    image = {"size": {"height": 448, "width": 448}, "crop": 1}
    folder = write(tmp_path / "m", model, image, inside=False)
    with pytest.raises(BadModel, match=rf"data\.max_image_tokens = {tokens}.*{reason}"):
        limited_files(folder, tokens)


def test_the_limit_is_part_of_the_policy_and_of_what_is_made_from_it(tmp_path: Path) -> None:
    model = {"model_type": "qwen3_vl", "vision_config": TOWER}
    folder = write(tmp_path / "m", model, QWEN, inside=False)
    store = open_store(str(tmp_path / "store"))
    plain = publish_folder(store, folder, settings=ModelSettings())
    limited = publish_folder(store, folder, settings=LIMIT)
    assert plain == publish_folder(store, folder)
    assert limited != plain
    got = tmp_path / "got"
    fetch_tree(store, limited.path, got)
    assert stored_settings(got) == LIMIT
    image = json.loads((got / "preprocessor_config.json").read_text())
    assert image["size"]["longest_edge"] == 256 * 32 * 32
    # What is published is limited already: the same again, and with no limit or another refused.
    assert publish_folder(store, got, settings=LIMIT) == publish_folder(store, got) == limited
    with pytest.raises(BadModel, match=r"set data\.max_image_tokens=256, or delete"):
        publish_folder(store, got, settings=ModelSettings())
    assert json.loads((folder / "preprocessor_config.json").read_text()) == QWEN
    assert not (folder / FILE).exists()


def test_the_limit_is_a_setting_of_the_data() -> None:
    assert config_from_dict({"data": {"max_image_tokens": 256}}).model_settings == LIMIT
    assert config_from_dict({}).model_settings.max_image_tokens is None
