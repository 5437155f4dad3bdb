"""Rollouts of which only what selection reads is there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    query: str
    sample_index: int
    text: str
    finish: str = "stop"
    seed: int = 0
    token_ids: tuple[int, ...] = (1, 2, 3)
    logprobs: tuple[float, ...] = (-0.5, -0.5, -0.5)
