"""The name of a set of shards: taken apart in one place, and the same string in JSON."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass

import pytest

from pipeline.hashing import canonical_json
from pipeline.refs import PRM_VALUES, ShardSet


@pytest.mark.parametrize(
    ("name", "phase", "number"),
    [
        ("warmup", "warmup", None),
        ("evolve/3", "evolve", 3),
        ("prm/rollouts", "prm/rollouts", None),
        ("prm/values/12", "prm/values", 12),
        ("evaluate/policy-1/test/greedy", "evaluate/policy-1/test/greedy", None),
    ],
)
def test_a_name_taken_apart_and_put_together(name: str, phase: str, number: int | None) -> None:
    shards = ShardSet(name)
    assert (shards.phase, shards.number) == (phase, number)
    assert ShardSet(phase, number) == shards == name
    assert shards.of_evaluation == name.startswith("evaluate/")
    assert shards.of_prm == name.startswith("prm/")
    assert shards.is_round == (phase == PRM_VALUES)


def test_it_is_its_string_wherever_it_goes() -> None:
    @dataclass(frozen=True)
    class Holder:
        shards: ShardSet

    shards = ShardSet("evolve", 3)
    assert {"evolve/3": 1}[shards] == 1
    assert json.dumps({shards: shards}) == '{"evolve/3": "evolve/3"}'
    assert canonical_json(asdict(Holder(shards))) == b'{"shards":"evolve/3"}'
    back = copy.deepcopy(shards)
    assert (type(back), back.number) == (ShardSet, 3)
