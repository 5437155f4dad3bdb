"""The base phase: the model that everything starts from, published and evaluated."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.phases.evaluate import all_evaluations
from pipeline.phases.steps import PublishFolder, Step
from pipeline.run.spec import RunSpec
from pipeline.run.state import State


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """Publish the base, then evaluate it on every split."""
    if "base" not in state.policies:
        config = spec.config
        return (PublishFolder("prepare", "base", config.policy.path, config.model_settings),)
    return all_evaluations(state, spec, "base", "base")
