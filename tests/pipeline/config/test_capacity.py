"""What no cluster of some node types can hold, and what merely has to be waited for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from jobs.runtime.recipes import load_recipe
from pipeline.config.capacity import NodeType, autoscaled, check_capacity, declared, demands
from pipeline.errors import BadConfig

NEEDED = [
    "policy.path=x", "data.path=y", "generate.engines=8", "generate.lookahead=8", "learn.ranks=8",
]  # fmt: skip
SMALL = NodeType("spot", cpus=16, gpus=4, most=4)
LARGE = NodeType("learner", cpus=64, gpus=8, most=1)


def test_roles_take_turns_so_each_alone_must_fit() -> None:
    """17 GPUs for all of them at once (8 + 1 + 8), and 8 are enough."""
    config = load_recipe("cluster", NEEDED)
    assert [demand.actors for demand in demands(config)] == [1, 1, 8]
    check_capacity(config, [LARGE])
    check_capacity(config, [])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learn.ranks=25"], r"learn.ranks .* asks for 25 times .* and 24 of them is all .* spot"),
        (
            ["generate.tensor_parallel_size=16"],
            r"an engine .* 4 CPUs and 16 GPUs, and 0 of",
        ),
        (["cluster.min_engines=7", "generate.tensor_parallel_size=8"], r"7 times .* and 1 of them"),
    ],
)
def test_what_no_node_type_can_give_is_refused_with_the_numbers(
    overrides: list[str], words: str
) -> None:
    config = load_recipe("cluster", [*NEEDED, *overrides])
    with pytest.raises(BadConfig, match=words):
        check_capacity(config, [SMALL, LARGE])


def test_ranks_that_are_held_to_a_kind_of_node_need_one_of_it() -> None:
    config = load_recipe("cluster", [*NEEDED, "cluster.rank_resource=reserved"])
    bare = replace(LARGE, others={"CPU": 64.0})
    with pytest.raises(BadConfig, match=r"8 times .* and 1 reserved, and 0 of them"):
        check_capacity(config, [replace(SMALL, others={}), bare])
    check_capacity(config, [bare, replace(LARGE, others={"reserved": 8.0})])
    check_capacity(config, [LARGE])  # declared: of other resources nothing is known


def test_engines_that_are_held_to_a_kind_of_node_need_one_of_it() -> None:
    config = load_recipe("cluster", [*NEEDED, "cluster.engine_resource=spot"])
    words = r"an engine \(.*engine_resource\) asks for 1 times .* and 1 spot, and 0 of them"
    with pytest.raises(BadConfig, match=words):
        check_capacity(config, [replace(LARGE, others={})])
    check_capacity(config, [replace(LARGE, others={}), replace(SMALL, others={"spot": 1.0})])


def test_a_declared_maximum_is_known_before_ray_is_asked() -> None:
    config = load_recipe("cluster", NEEDED)
    assert declared(config) == []
    eight = load_recipe("cluster", [*NEEDED, "cluster.most_gpus=8"])
    check_capacity(eight, declared(eight))
    seven = load_recipe("cluster", [*NEEDED, "cluster.most_gpus=7"])
    assert math.isinf(declared(seven)[0].cpus)
    with pytest.raises(BadConfig, match=r"learn.ranks .* and 7 of them is all .*any CPUs, 7 GPUs"):
        check_capacity(seven, declared(seven))


AUTOSCALING: dict[str, Any] = {
    "max_workers": 5,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "learner": {"resources": {"CPU": 64, "GPU": 8, "learner": 8}, "max_workers": 1},
        "spot": {"resources": {"CPU": 64, "GPU": 8}},
    },
}


def test_the_node_types_of_an_autoscalers_file() -> None:
    head, learner, spot = autoscaled(AUTOSCALING)
    assert (head.name, head.cpus, head.gpus, head.most) == ("head", 0.0, 0.0, 1.0)
    assert (learner.cpus, learner.gpus, learner.most) == (64.0, 8.0, 1.0)
    assert learner.others == {"CPU": 64.0, "GPU": 8.0, "learner": 8.0}
    assert spot.most == 5.0
    seen_later = {**AUTOSCALING["available_node_types"], "any": {"max_workers": 1}}
    assert autoscaled({**AUTOSCALING, "available_node_types": seen_later}) == []


def test_nodes_of_no_type_count_once_they_are_there() -> None:
    config = load_recipe("cluster", [*NEEDED, "learn.ranks=9", "cluster.rank_resource=learner"])
    types = autoscaled(AUTOSCALING)
    with pytest.raises(BadConfig, match=r"learn.ranks .* 9 times .* and 8 of them is all"):
        check_capacity(config, types)
    added = NodeType("now", cpus=100.0, gpus=9.0, others={"learner": 9.0})
    check_capacity(config, types, added)
