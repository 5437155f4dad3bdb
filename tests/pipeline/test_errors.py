"""Hints in errors."""

from __future__ import annotations

import pytest

from pipeline.errors import download_hint


@pytest.mark.parametrize(
    "path", ["/models/qwen", "out", "a/b/c", "./model", "../model", "s3://x/y", "my/data.jsonl"]
)
def test_a_path_is_not_taken_for_a_hub_id(path: str) -> None:
    assert download_hint(path, "model", "policy.path") == ""


def test_a_hub_id_comes_with_the_command_that_gets_it() -> None:
    model = download_hint("Qwen/Qwen2-VL-2B-Instruct", "model", "policy.path")
    command = "hf download Qwen/Qwen2-VL-2B-Instruct --local-dir models/Qwen2-VL-2B-Instruct"
    assert f"`{command}`, then set policy.path=models/Qwen2-VL-2B-Instruct" in model
    data = download_hint("AI4Math/MathVista", "dataset", "data.path")
    assert "hf download --repo-type dataset AI4Math/MathVista --local-dir datasets/" in data
