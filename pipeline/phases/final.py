"""The final phase: the best policy by validation, and the best control, evaluated on the test
splits."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.phases.evaluate import all_evaluations
from pipeline.phases.lineage import best_of
from pipeline.phases.steps import Finish, Step
from pipeline.run.spec import RunSpec
from pipeline.run.state import State


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """Evaluate the chosen policies; then the run is finished."""
    final = chosen(state, spec, "evolve")
    control = chosen(state, spec, "control") if spec.config.evolve.control else None
    return (
        (all_evaluations(state, spec, control, "control") if control is not None else ())
        or all_evaluations(state, spec, final, "final")
        or (Finish("final/evaluate", final, control),)
    )


def chosen(state: State, spec: RunSpec, chain: str) -> str:
    """The best of a chain by validation greedy, the warm-up policy included; ties to the later."""
    names = ["warmup", *(f"{chain}/{t}" for t in range(len(state.iterations)))]
    validation = spec.config.data.validation
    return names[best_of([state.greedy(state.policies[name], validation) for name in names])]
