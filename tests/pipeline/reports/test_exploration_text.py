"""What a search decided, and when a policy is saturated, in words."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.reports.exploration.text import curve_table, decision_line, saturation_notices
from pipeline.run.state import State


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "n": 250, "ci95": [low, high]}


def search(temperature: float, bound: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "iteration": 2,
        "temperature": temperature,
        "today": 1.0,
        "figure": "reward_pass_2",
        "ranked_by": "prm",
        "samples": 8,
        "curve": {"0.7": estimate(0.6, 0.5, 0.7), "1": estimate(0.5, 0.4, 0.6)},
        "gains": {"0.7": {"gain": 0.1, "bound": bound}},
    } | changes


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (search(0.7, 0.02), "before it was T = 1, 10.0 points less, at least 2.0"),
        (search(0.7, None), "before it was T = 1, 10.0 points less"),
        (search(1.0, -0.01), "T = 0.7 is 10.0 points above, which may be chance (at least -1.0)"),
        (
            search(1.0, None, gains={"0.7": {"gain": -0.1, "bound": None}}),
            "no other temperature is above",
        ),
    ],
)
def test_a_decision_says_why(chosen: dict[str, Any], words: str) -> None:
    line = decision_line(chosen)
    assert line.startswith(
        f"iteration 2 is sampled at T = {chosen['temperature']:g}: Reward-Pass@2 "
    )
    assert line.endswith(words)


def test_a_table_marks_what_was_in_force_and_what_was_chosen() -> None:
    assert curve_table([search(0.7, 0.02)]) == [
        ["iteration", "figure", "T = 0.7", "T = 1"],
        ["2", "Reward-Pass@2 of 8 by process reward", "60.0*", "(50.0)"],
    ]


def dynamics(iteration: int, headroom: float, low: float) -> dict[str, Any]:
    row = {"headroom": {"8": estimate(headroom, low, headroom + 0.05)}}
    open_row = {"headroom": {"8": estimate(0.3, 0.2, 0.4)}}
    return {"iteration": iteration, "rows": {"0.5": row, "1.5": open_row}}


def test_saturation_is_told_at_the_temperature_in_force() -> None:
    state = State(config={"generate": {"temperature": 1.4}})
    assert saturation_notices(state) == []
    state.dynamics = [dynamics(0, 0.2, 0.1), dynamics(2, 0.01, -0.02)]
    assert saturation_notices(state) == [], "at 1.5 there is head-room"
    state.temperatures = [{"temperature": 0.7}]
    (notice,) = saturation_notices(state)
    assert notice.startswith(
        "saturation after 2 iterations, at T = 0.5: Pass@8 is above greedy by "
    )
