"""The phases that ship: one step is ready at every point of a run, and an iteration has one
temperature."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import Config
from pipeline.phases.order import ready_steps
from pipeline.phases.steps import SampleShards, Train
from pipeline.run.events.wire import from_wire
from pipeline.run.state import State
from tests.support.driving import Bench
from tests.support.scripted import make_config, prm_config

HOT = {"samples": 6, "temperature": 0.7}


@pytest.mark.parametrize("config", [make_config(generate=HOT), prm_config()], ids=["hot", "prm"])
def test_one_step_is_ready_until_the_run_is_finished(tmp_path: Path, config: Config) -> None:
    bench = Bench(tmp_path, config)
    bench.run()
    state, temperatures = State(), set()
    for wire in bench.events:
        assert state.finished is None
        (step,) = ready_steps(state, bench.program)
        if isinstance(step, Train) and step.job.check_logprobs:
            temperatures.add(step.job.temperature)
        if isinstance(step, SampleShards) and step.purpose.startswith("evolve/"):
            temperatures |= {spec.sampling.temperature for spec in step.specs}
        state.apply(from_wire(wire))
    assert state.finished is not None
    assert ready_steps(state, bench.program) == ()
    temperatures |= {row["temperature"] for row in state.iterations}
    assert temperatures == {config.generate.temperature}
