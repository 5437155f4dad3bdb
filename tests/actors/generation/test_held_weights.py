"""Whether an engine holds what it was told to load, and which file does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from actors.generation.engine_settings import EngineSettings
from actors.generation.held_weights import (
    OtherWeights,
    check_held,
    held_heads,
    stored_values,
    unfit_weights,
)
from actors.generation.vllm_engine import VllmEngine
from actors.supervision.failures import call
from pipeline.errors import BadModel
from tests.support.models import make_policy

SHAPES = {"a.q": (4, 24), "a.k": (2, 24), "b.norm": (32,), "c.norm": (32,)}


def weights(folder: Path, seed: int, **changes: torch.Tensor) -> dict[str, torch.Tensor]:
    """A folder of random weights, but for what is given."""
    generator = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    made |= {"c.norm": torch.ones(32), **changes}
    folder.mkdir()
    save_file(made, folder / "model.safetensors")
    return made


class Served:
    """Stands where vLLM stands: a model that holds fused tensors in the engine's precision."""

    def __init__(self, of: dict[str, torch.Tensor]) -> None:
        self.model = torch.nn.ParameterDict(
            {
                "qkv": torch.cat([of["a.q"], of["a.k"]]).bfloat16(),
                "norm": of["b.norm"].bfloat16(),
                "other": of["c.norm"].bfloat16(),
            }
        )

    def apply_model(self, function: Callable[[Any], Any]) -> list[Any]:
        return [function(self.model)]


def test_an_engine_that_holds_what_it_was_told_is_believed(tmp_path: Path) -> None:
    first, second = weights(tmp_path / "1", 1), weights(tmp_path / "2", 2)
    known = check_held(Served(first), tmp_path / "1", "bfloat16", frozenset())
    assert check_held(Served(second), tmp_path / "2", "bfloat16", known) != known


def test_stale_and_foreign_weights_are_named(tmp_path: Path) -> None:
    first = weights(tmp_path / "1", 1)
    weights(tmp_path / "2", 2, **{"b.norm": first["b.norm"]})  # one of them did not change
    known = check_held(Served(first), tmp_path / "1", "bfloat16", frozenset())
    with pytest.raises(OtherWeights, match="1 tensors of the policy before it"):
        check_held(Served(first), tmp_path / "2", "bfloat16", known)
    foreign = weights(tmp_path / "3", 3)
    with pytest.raises(OtherWeights, match="no tensor of it"):
        check_held(Served(foreign), tmp_path / "1", "bfloat16", frozenset())


class ServedWithHead(Served):
    """And what gives tokens their logits is known by these first values."""

    def __init__(self, of: dict[str, torch.Tensor], *heads: bytes) -> None:
        super().__init__(of)
        self.heads = heads

    def apply_model(self, function: Callable[[Any], Any]) -> list[Any]:
        if function is held_heads:
            return [{head} for head in self.heads]
        return super().apply_model(function)


def test_a_head_that_nothing_was_loaded_into_is_named(tmp_path: Path) -> None:
    """As vLLM leaves it where only the whole model's config says that embeddings are tied."""
    first = weights(tmp_path / "1", 1)
    stored = next(iter(stored_values(tmp_path / "1", "bfloat16")))
    for heads in ((stored,), (stored, b"the second rank's")):
        check_held(ServedWithHead(first, *heads), tmp_path / "1", "bfloat16", frozenset())
    with pytest.raises(BadModel, match="tie_word_embeddings twice"):
        check_held(ServedWithHead(first, b"anything"), tmp_path / "1", "bfloat16", frozenset())


def test_a_tower_that_save_pretrained_renamed_is_named_with_what_to_do(tmp_path: Path) -> None:
    name = "vision_tower.embeddings.patch_embedding.weight"
    weights(tmp_path / "1", 1, **{name: torch.ones(2, 2)})

    def load_weights(name: str) -> None:
        raise ValueError(f"There is no module or parameter named {name!r} in LlavaForCondi…")

    with pytest.raises(ValueError, match="no module") as raised:
        load_weights(name)
    said = str(unfit_weights(raised.value, tmp_path / "1"))
    assert f"cannot load {name}" in said
    assert "of the published checkpoint" in said


def test_weights_that_do_not_fit_are_named_by_tensor_and_file(tmp_path: Path) -> None:
    weights(tmp_path / "1", 1)

    def load_weights(items: dict[str, int]) -> None:
        for name, _ in items.items():
            assert name == "x.y", "shapes differ"

    for loading, words in (
        ({"a.q": 1}, "cannot load a.q: shapes differ"),
        ({"layer": 1}, "weights in"),
    ):
        with pytest.raises(AssertionError) as raised:
            load_weights(loading)
        unfit = unfit_weights(raised.value, tmp_path / "1")
        assert isinstance(unfit, BadModel)
        assert words in str(unfit)
        assert str(tmp_path / "1" / "model.safetensors") in str(unfit)
    assert unfit_weights(RuntimeError("CUDA out of memory"), tmp_path / "1") is None


def test_a_truncated_file_is_named_before_the_engine_starts(tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "policy", 0)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])

    def start(*_: Any) -> None:
        raise RuntimeError("it must not be started")

    engine = VllmEngine(EngineSettings(), lambda sha: None, start=start)  # type: ignore[arg-type, return-value]
    failure = call(engine.load_policy, folder).failure
    engine.close()
    assert failure is not None
    assert failure.kind == "user"
    assert f"{file} is truncated" in failure.reason
