"""Runs over scripted workers: one that nothing disturbs, and one that has not begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.schema import Config
from tests.support.driving import Bench
from tests.support.scripted import make_config


@pytest.fixture(scope="module")
def config() -> Config:
    """Their settings; a module that needs others has a fixture of this name."""
    return make_config()


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, config: Config) -> Bench:
    """A run that nothing disturbs."""
    bench = Bench(tmp_path_factory.mktemp("plain"), config)
    bench.run()
    return bench


@pytest.fixture
def bench(tmp_path: Path, config: Config) -> Bench:
    """A run that has not begun."""
    return Bench(tmp_path, config)
