"""The final phase: the final policy and the final control (`evolve.final`), evaluated on the test
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
    """The policy of a chain that stands for it: the best by validation greedy, the warm-up's
    included, ties to the later; or the last one (`evolve.final`)."""
    names = ["warmup", *(f"{chain}/{t}" for t in range(len(state.iterations)))]
    if spec.config.evolve.final == "last":
        return names[-1]
    validation = spec.config.data.validation
    return names[best_of([state.greedy(state.policies[name], validation) for name in names])]
