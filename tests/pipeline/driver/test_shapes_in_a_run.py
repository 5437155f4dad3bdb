"""A policy that states its answers in another shape than ours, through warm-up and evolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pipeline.audit.run import audit
from pipeline.driver.driver import drive
from pipeline.errors import RunStopped
from pipeline.generation.shards import SamplePart, ShardSpec
from pipeline.query import Query
from pipeline.records import Rollout, Selected
from pipeline.simulation.fleet import ScriptedFleet, decode
from pipeline.simulation.grader import GRADER
from pipeline.simulation.mail import Mail
from pipeline.storage.artifacts import read_rows
from tests.support.driving import Bench
from tests.support.scripted import make_config


class Reshaped(ScriptedFleet):
    """Engines of a policy with a way of its own to state an answer."""

    state: Callable[[str], str]

    def response(
        self, spec: ShardSpec, query: Query, part: SamplePart, i: int, skill: float
    ) -> Rollout:
        row = super().response(spec, query, part, i, skill)
        way, _, answer = row.text.partition("# Answer\n\n")
        text = way + self.state(answer) if answer else row.text
        ids = tuple(text.encode())
        return replace(row, text=text, token_ids=ids, logprobs=tuple(-0.5 for _ in ids))


def run(folder: Path, state: Callable[[str], str], **prompt: Any) -> Bench:
    bench = Bench(folder, make_config(prompt=prompt))
    context = bench.context()
    fleet = Reshaped(bench.store, bench.program.by_hash, Mail(Random(0)))
    fleet.state = state
    context.workers = replace(context.workers, fleet=fleet)
    drive(context)
    return bench


STATE: Mapping[str, Callable[[str], str]] = {
    "boxed": lambda answer: rf"So it is \boxed{{{answer}}}.",
    "sentence": lambda answer: f"The answer is {answer}.",
}


@pytest.mark.parametrize("shape", STATE)
def test_answers_in_the_shapes_that_are_read_get_a_policy_through_its_warm_up(
    tmp_path: Path, shape: str
) -> None:
    bench = run(tmp_path, STATE[shape], shapes=[shape])
    assert bench.of_type("finished")
    (warmup,) = (e for e in bench.of_type("sampling_closed") if e["purpose"] == "warmup")
    coverage = warmup["coverage"]
    assert warmup["shapes"] == {shape: coverage["correct"] + coverage["wrong"]}
    assert coverage["kept"] > 0
    graded = [event for event in bench.of_type("shard_graded") if event["purpose"] == "warmup"]
    for event in graded:
        for row in read_rows(bench.store, event["selected"], Selected):
            assert "# Answer" not in decode(row.token_ids)
    assert audit(bench.store, "scripted", grader=GRADER).clean


def test_a_shape_that_is_not_read_leaves_nothing_to_warm_up_on(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"not one of the base's chains.*prompt\.shapes"):
        run(tmp_path, STATE["boxed"], shapes=["sentence"])


def test_what_is_read_may_be_kept_from_training(tmp_path: Path) -> None:
    with pytest.raises(RunStopped, match=r"not one of the base's chains.*prompt\.trained=ours"):
        run(tmp_path, STATE["boxed"], shapes=["boxed"], trained="ours")
