"""The most tokens that a model's processor makes of an image, as its own files say it.

Each family bounds a picture in its own way (pixels, an edge, tiles); a limit in tokens is written
into the folder as that family says it, so engine, learner and process reward model read the same
files, and so does whoever loads an exported policy. A limit only lowers what is there. Counted are
the tokens that stand for a picture's features; markers around them and between rows come besides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isqrt
from pathlib import Path
from typing import Any

from pipeline.errors import BadModel

KEY = "data.max_image_tokens"

AREA = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "glm4v", "glm4v_moe")
FRAMES = ("glm4v", "glm4v_moe")
"""Of these the limit on pixels is on those of all frames, and a picture is one several times."""
TILES = ("idefics3", "smolvlm")
PATCHES = ("internvl",)
EDGE = ("pixtral", "mistral3")

_FILES = ("processor_config.json", "preprocessor_config.json")
_OTHERS = {
    "llava": "it makes as many tokens of every picture, whatever its size",
    "gemma3": "it makes as many tokens of every picture, whatever its size",
    "paligemma": "it makes as many tokens of every picture, whatever its size",
    "llava_onevision": "its sizes are the image_grid_pinpoints of config.json, which its weights "
    "were trained with",
    "llava_next": "its sizes are the image_grid_pinpoints of config.json, which its weights were "
    "trained with",
    "minicpmv4_6": "it counts slices: lower max_slice_nums in preprocessor_config.json",
}

Json = dict[str, Any]


def limited_files(folder: Path, tokens: int) -> dict[str, bytes]:
    """The files of a model folder that say how pictures are processed, changed so that one makes at
    most `tokens` tokens; by name.

    Raises:
        BadModel: its family has no such limit, or none that low; saying what it has.
    """
    model = _read(folder / "config.json")
    found: dict[str, bytes] = {}
    for name in _FILES:
        whole = _read(folder / name)
        part = whole.get("image_processor") if name == _FILES[0] else whole
        if part:
            part |= _changes(folder, model, {**_read(folder / _FILES[0]), **part}, tokens)
            found[name] = (json.dumps(whole, indent=2, sort_keys=True) + "\n").encode()
    if _kind(model) in EDGE:
        found |= _tower(model, found)
    if not found:
        raise BadModel(
            f"{folder}: {KEY} = {tokens}, and nothing in {' or '.join(_FILES)} says how its "
            "pictures are processed"
        )
    return found


def _kind(model: Json) -> str:
    """The family, told by what bounds its pictures."""
    kind = str(model.get("model_type"))
    tower = model.get("vision_config") or {}
    return "pixtral" if kind == "llava" and tower.get("model_type") == "pixtral" else kind


def _tower(model: Json, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The config of a model of which vLLM takes the longer edge from the vision tower's. Positions
    in a picture are counted from its corner, so those of a smaller one stay what they were."""
    whole = [json.loads(data) for data in files.values()]
    edge = min(one.get("image_processor", one)["size"]["longest_edge"] for one in whole)
    tower = model["vision_config"]
    if edge >= tower.get("image_size", edge):
        return {}
    changed = {**model, "vision_config": {**tower, "image_size": edge}}
    return {"config.json": (json.dumps(changed, indent=2, sort_keys=True) + "\n").encode()}


def _read(file: Path) -> Json:
    try:
        found = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise BadModel(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadModel(f"{file} is no JSON object")
    return found


def _changes(folder: Path, model: Json, part: Json, tokens: int) -> Json:
    """What the section about pictures has to say instead. part: that section, and what is said of
    the whole processor."""
    kind, vision = _kind(model), model.get("vision_config") or {}
    try:
        if kind in AREA:
            return _area(kind, vision, part, tokens)
        if kind in EDGE:
            return _edge(part, vision, model, tokens)
        if kind in TILES or kind in PATCHES:
            each = _of_a_tile(model, vision, part)
            if tokens < each:
                raise BadModel(
                    f"{folder}: {KEY} = {tokens}, and its family ({kind}) makes {each} tokens of "
                    f"the smallest picture: give {each} or more"
                )
            bound = _tiles if kind in TILES else _patches
            return bound(part, tokens // each)
    except (KeyError, TypeError) as error:
        raise BadModel(f"{folder}: {KEY} needs {error} in its configuration") from error
    why = _OTHERS.get(
        kind, f"what its processor takes is not known here: {', '.join(sorted(part))}"
    )
    raise BadModel(f"{folder}: {KEY} = {tokens}, and its family ({kind}) has no such limit: {why}")


def _area(kind: str, vision: Mapping[str, Any], part: Json, tokens: int) -> Json:
    """A limit on pixels, of which a square of `side` becomes a token."""
    patch = part.get("patch_size") or vision["patch_size"]
    side = patch * (part.get("merge_size") or vision["spatial_merge_size"])
    pixels = tokens * side * side
    if kind in FRAMES:
        pixels *= part.get("temporal_patch_size") or vision.get("temporal_patch_size") or 2
    size = dict(part.get("size") or {})
    most = min(pixels, part.get("max_pixels") or size.get("longest_edge") or pixels)
    least = min(most, part.get("min_pixels") or size.get("shortest_edge") or most)
    changes: Json = {"size": {"longest_edge": most, "shortest_edge": least}}
    if "max_pixels" in part:  # it goes before `size`
        changes |= {"max_pixels": most, "min_pixels": least}
    return changes


def _edge(part: Json, vision: Mapping[str, Any], model: Json, tokens: int) -> Json:
    """A limit on the longer edge, whose square has at most so many squares of a token."""
    patch = vision["patch_size"] * (model.get("spatial_merge_size") or 1)
    edge = isqrt(tokens) * patch
    size = dict(part.get("size") or {})
    return {"size": {**size, "longest_edge": min(edge, size.get("longest_edge") or edge)}}


def _of_a_tile(model: Json, vision: Mapping[str, Any], part: Json) -> int:
    named = part.get("image_seq_len") or part.get("image_seq_length")
    if named:
        return int(named)
    side, patch = (
        size[0] if isinstance(size, list) else size
        for size in (vision["image_size"], vision["patch_size"])
    )
    scale = model.get("scale_factor")
    shrunk = 1 / scale if scale else model["downsample_ratio"]
    features: int = round((side // patch) ** 2 * shrunk**2)
    return features


def _tiles(part: Json, most: int) -> Json:
    """A limit on the longer edge: a picture of more than one tile is cut into a grid of them, and
    the whole comes besides."""
    tile = part["max_image_size"]["longest_edge"]
    across = max(1, isqrt(most - 1))
    longest = across * tile
    size = part.get("size") or {}
    return {"size": {"longest_edge": min(longest, size.get("longest_edge") or longest)}}


def _patches(part: Json, most: int) -> Json:
    """A limit on tiles, besides which the whole comes where there is more than one."""
    patches = most - 1 if most > 2 else 1
    patches = min(patches, part.get("max_patches") or patches)
    return {"max_patches": patches, "min_patches": min(patches, part.get("min_patches") or 1)}
