"""The adaptive temperature: what it does on curves whose truth is known."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.load import config_from_dict
from pipeline.config.schema import Config
from pipeline.errors import BadConfig
from pipeline.generation.temperature import (
    check_precision,
    decide,
    least_queries,
    narrowed,
)
from pipeline.simulation.searches import GRID, decisions, drift, moves, stepped


@pytest.mark.parametrize("grid", [GRID, GRID[4:9]], ids=["14 temperatures", "5 temperatures"])
def test_on_a_flat_curve_it_stays_in_95_of_100_searches(grid: Sequence[float]) -> None:
    found = moves(decisions(lambda t: 0.5, grid, 1000))
    assert found["sound"] <= 0.05
    assert found["argmax"] > 0.5, "which is why it is not the default"


def test_it_moves_to_a_true_gain_of_8_points() -> None:
    found = decisions(partial(stepped, 0.08), GRID[4:9], 300)
    gone = [decision.temperature for decision in found if decision.moved]
    assert len(gone) >= 0.8 * 300
    assert np.mean([t in (1.0, 1.1) for t in gone]) >= 0.9


def test_argmax_finds_a_recorded_best() -> None:
    recorded = {0.5: [1.0, 1.0, 0.0, 0.0], 0.7: [1.0, 1.0, 1.0, 0.0], 1.0: [1.0, 0.0, 0.0, 0.0]}
    found = decide(recorded, [0, 1, 2, 3], 1.0, "argmax", seed=0, reps=100)
    assert (found.temperature, found.moved) == (0.7, True)
    assert found.curve[0.7].value == 0.75
    assert found.gains[0.7] == (0.5, None)
    assert decide(recorded, [0, 1, 2, 3], 1.0, "sound", seed=0, reps=100).temperature == 1.0


def test_it_follows_an_optimum_that_drifts() -> None:
    """From 0.5 to 1.1 over twelve searches, with the grid narrowed around the last choice."""
    path = drift(1000, "sound")["chosen"]
    assert path[0] == pytest.approx(0.5, abs=0.11)
    assert path[-1] == pytest.approx(1.1, abs=0.21)
    assert path == sorted(path), "no step back"


def test_equal_curves_are_no_gain() -> None:
    same = {0.5: [1.0, 0.0, 1.0], 1.0: [1.0, 0.0, 1.0]}
    found = decide(same, [0, 1, 2], 0.5, "sound", seed=0, reps=50)
    assert (found.temperature, found.gains[1.0]) == (0.5, (0.0, 0.0))
    assert found.to_dict()["gains"] == {"1": {"gain": 0.0, "bound": 0.0}}


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6), min_size=2, max_size=4)
)
def test_a_bound_is_below_its_gain_and_a_move_is_a_gain(hits: list[list[float]]) -> None:
    curves = {float(t): row for t, row in enumerate(hits)}
    found = decide(curves, [0, 0, 1, 2, 3, 4], 0.0, "sound", seed=0, reps=50)
    for gain, bound in found.gains.values():
        assert bound is not None
        assert bound <= gain + 1e-12
    if found.moved:
        assert np.mean(curves[found.temperature]) > np.mean(curves[0.0])


def test_a_grid_is_narrowed_around_the_last_choice() -> None:
    assert narrowed(GRID, 0.5, 5) == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert narrowed(GRID, 0.3, 3) == (0.3, 0.4, 0.5)
    assert narrowed((0.5, 1.0), 0.7, 9) == (0.5, 0.7, 1.0)


def search_config(**explore: Any) -> Config:
    return config_from_dict({"explore": {"every": 2, "by": "pass_at_k", **explore}})


def test_too_few_validation_questions_are_refused_with_how_many_would_do() -> None:
    grid = [0.7, 1.0, 1.3]
    check_precision(search_config(grid=grid, gain=0.09), 250)
    with pytest.raises(
        BadConfig, match=rf"250 in 'validation'.* {least_queries(0.02, 3)} would do"
    ):
        check_precision(search_config(grid=grid, gain=0.02), 250)
    with pytest.raises(BadConfig, match=r"explore.queries = 50") as caught:
        check_precision(search_config(grid=grid, gain=0.09, queries=50), 250)
    shown = re.search(r"explore.gain=([\d.]+)\)", str(caught.value))
    assert shown is not None
    check_precision(search_config(grid=grid, gain=float(shown[1]), queries=50), 250)
    check_precision(search_config(grid=grid, gain=0.01, mode="argmax"), 5)
    check_precision(config_from_dict({}), 5)


def test_a_decision_needs_todays_temperature_and_another() -> None:
    with pytest.raises(ValueError, match="today's temperature"):
        decide({0.5: [1.0], 0.7: [1.0]}, [0], 1.0, "sound", seed=0)
