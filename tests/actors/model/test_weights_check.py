"""Broken weights are named before anything reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from actors.model.weights_check import check_weights, tensor_names
from pipeline.errors import BadModel

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of two files and their index."""
    for shard, (name, tensor) in zip(SHARDS, TENSORS.items(), strict=True):
        save_file({name: tensor}, tmp_path / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": dict(zip(TENSORS, SHARDS, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_complete_weights_pass(folder: Path) -> None:
    check_weights(folder)
    assert tensor_names(folder / SHARDS[0]) == {"a"}


def cut(size: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:size]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut(-1), r"truncated: it has \d+ of \d+ bytes"),
        (cut(20), "truncated inside its header"),
        (cut(7), "truncated: it has 7 bytes"),
        (cut(0), "truncated: it has 0 bytes"),
        (lambda data: data + b"x", "damaged: 1 bytes follow"),
        (lambda data: data[:8] + b"!" + data[9:], "its header cannot be read"),
        (lambda data: b"<html>not found</html>", "does not begin as a safetensors file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_a_broken_file_is_named(folder: Path, change: Callable[[bytes], bytes], words: str) -> None:
    file = folder / SHARDS[1]
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(BadModel, match=words) as caught:
        check_weights(folder)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / SHARDS[0]).unlink()
    with pytest.raises(BadModel, match=rf"{SHARDS[0]} is missing.*holds a"):
        check_weights(folder)


def test_an_index_of_another_model_is_named(folder: Path) -> None:
    save_file({"c": TENSORS["a"]}, folder / SHARDS[0])
    with pytest.raises(BadModel, match=f"{SHARDS[0]} does not hold a"):
        check_weights(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": 3}')
    with pytest.raises(BadModel, match=r"index\.json cannot be read"):
        check_weights(folder)


@given(st.data())
def test_every_truncation_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(TENSORS, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(BadModel, match="truncated"):
        tensor_names(file)
