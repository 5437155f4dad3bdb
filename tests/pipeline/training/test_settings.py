"""What the learner is told: a schedule that is a function of the step, settings that can work."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pipeline.errors import BadConfig
from pipeline.training.settings import learning_rate_at
from tests.support.learning import SETTINGS


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]),
        ("cosine", [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_the_learning_rate_is_a_function_of_the_step(schedule: Any, wanted: list[float]) -> None:
    chosen = dataclasses.replace(
        SETTINGS, learning_rate=1.0, schedule=schedule, schedule_rise=2, schedule_steps=4
    )
    assert [learning_rate_at(step, chosen) for step in range(6)] == pytest.approx(wanted)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(BadConfig, match="float32 or bfloat16"):
        dataclasses.replace(SETTINGS, precision="float16")  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match="schedule_steps"):
        dataclasses.replace(SETTINGS, schedule="cosine")
