"""Rows of training on a node that has of the policy what rows need, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.training.learner import GroupLearner
from actors.training.source import Source
from pipeline.storage.models import publish_folder
from pipeline.storage.tree_cache import TreeCache
from pipeline.training.settings import LearnSettings
from tests.support.learner_bench import SIZES, Bench, FakeGroup, run
from tests.support.scripted import make_config

BASE = Path(__file__).resolve().parents[3] / "assets" / "digits-base"


class Asked(Exception):
    """The learner came as far as asking for ranks."""


def test_a_learner_makes_rows_where_nothing_else_has_read_the_policy(tmp_path: Path) -> None:
    """What engines sampled may have been in the store already: then no weights are on its node."""
    bench = Bench(tmp_path, make_config(learn=SIZES))
    base = publish_folder(bench.store, BASE)

    def start(settings: LearnSettings, source: Source) -> FakeGroup:
        raise Asked

    cache = TreeCache(tmp_path / "node")
    learner = GroupLearner(bench.config, bench.store, bench.program.by_hash, cache, start)
    with pytest.raises(Asked):
        run(learner, bench.job("evolve/0", [], policy=base))
    learner.close()
    assert not list((tmp_path / "node").rglob("*.safetensors"))
