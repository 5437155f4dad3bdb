"""What the learner is told: a schedule that is a function of the step, settings that can work."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.learning import Learn
from pipeline.errors import BadConfig
from pipeline.training.settings import Span, check_rate, learning_rate_at
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
    changes = {"schedule": schedule, "schedule_rise": 2, "schedule_steps": 4}
    chosen = SETTINGS.model_copy(update={"learning_rate": 1.0, **changes})
    assert [learning_rate_at(step, chosen) for step in range(6)] == pytest.approx(wanted)


def test_a_schedule_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="needs to know what it spans"):
        learning_rate_at(0, Learn(schedule="cosine"))


FALLING = SETTINGS.model_copy(update={"learning_rate": 1.0, "schedule": "linear"})


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=9),
    st.sampled_from(["linear", "cosine"]),
    st.sampled_from([1.0, 1.25, 4.0]),
)
def test_a_schedule_spans_the_run_however_many_steps_an_iteration_takes(
    steps_I: list[int], schedule: Any, share: float
) -> None:
    """The rate falls in every step, by as much in each iteration, and is above 0 to the end."""
    settings = FALLING.model_copy(update={"schedule": schedule})
    whole, first, rates = len(steps_I) * share, 0, []
    for t, steps in enumerate(steps_I):
        span = Span(t / whole, (t + 1) / whole, first, steps)
        check_rate(settings, first, steps, span)
        rates += [learning_rate_at(step, settings, span) for step in range(first, first + steps)]
        first += steps
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert min(rates) > 0.0
    if schedule == "linear":
        starts = [sum(steps_I[:t]) for t in range(len(steps_I))]
        wanted = [1 - t / whole for t in range(len(steps_I))]
        assert [rates[at] for at in starts] == pytest.approx(wanted)


def test_a_rate_of_0_before_the_end_is_refused() -> None:
    """As the arm that kept all correct responses was trained: 609 steps, a schedule of 270."""
    ends = FALLING.model_copy(update={"schedule_steps": 270})
    check_rate(ends, 0, 270, None)
    with pytest.raises(BadConfig, match=r"0 for 1 of 71 steps \(optimizer steps 200 to 270"):
        check_rate(ends, 200, 71, None)
    with pytest.raises(BadConfig, match="0 for 87 of 87 steps"):
        check_rate(ends, 270, 87, None)
    check_rate(ends.model_copy(update={"schedule": "constant"}), 270, 87, None)
