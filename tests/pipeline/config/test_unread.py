"""Settings that were given and that nothing reads are named, with the reason."""

from __future__ import annotations

import pytest

from jobs.runtime.recipes import RECIPES, load_recipe
from pipeline.config.load import changed_config
from pipeline.config.unread import unread


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_setting_of_a_recipe_is_read(recipe: str) -> None:
    assert unread(load_recipe(recipe)) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["prm.samples=9", "prm.loss=mse"],
            "prm.loss, prm.samples: select.reward = binary uses no process reward model",
        ),
        (["prm.queries=9"], "prm.queries: select.reward = binary uses no process reward model"),
        (["select.threshold=0.7"], "select.threshold: select.rule = random_k has no threshold"),
        (["select.rule=all_correct"], "select.k: select.rule = all_correct has no k"),
        (["learn.schedule_share=9"], "learn.schedule_share: learn.schedule = constant"),
        (["evolve.iterations=0"], "evolve.interval: evolve.iterations = 0"),
        (["generate.gpu_memory_utilization=0.5"], "generate.gpu_memory_utilization: engines use"),
        (["cluster.gpus_per_engine=1"], "generate.kv_cache_gib: engines are on GPUs"),
        (
            ["warmup.checkpoint=x", "evolve.control=false"],
            "warmup.epochs, warmup.epochs_per_evaluation, warmup.learning_rate, warmup.queries, "
            "warmup.samples: warmup.checkpoint is a ready warm-up",
        ),
        (
            ["select.reward=prm", "prm.path=x", "prm.completions=4"],
            "prm.completions: prm.path is a ready one",
        ),
        (["explore.gain=0.2"], "explore.gain: explore.every = 0"),
        (["dynamics.samples=4"], "dynamics.samples: dynamics.every = 0"),
        (
            ["explore.every=2", "explore.by=pass_at_k", "explore.mode=argmax", "explore.gain=0.2"],
            "explore.gain: explore.mode = argmax",
        ),
        (["select.reward=prm", "prm.good=y"], "prm.good: prm.kind = head has no tag"),
    ],
)
def test_what_nothing_reads_is_named_with_the_reason(overrides: list[str], line: str) -> None:
    (found,) = unread(load_recipe("tiny", overrides))
    assert found.startswith(f"nothing reads {line}")


def test_what_a_change_leaves_as_it_was_was_not_given() -> None:
    changed = changed_config(
        load_recipe("tiny"), ["cluster.address=auto", "learn.schedule_share=9"]
    )
    (found,) = unread(changed)
    assert found == "nothing reads learn.schedule_share: learn.schedule = constant"
