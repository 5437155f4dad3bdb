"""The final phase: the best policy by validation, evaluated on the test splits."""

from __future__ import annotations

from pipeline.phases.evaluate import evaluation_steps
from pipeline.phases.lineage import best_of
from pipeline.phases.steps import Finish, Step
from pipeline.run.spec import RunSpec
from pipeline.run.state import State


def chosen(state: State, program: RunSpec, chain: str) -> str:
    """The best of a chain by validation greedy, the warm-up policy included; ties to the later."""
    names = ["warmup", *(f"{chain}/{t}" for t in range(program.config.evolve.iterations))]
    validation = program.config.data.validation
    return names[best_of([state.greedy(state.policies[name], validation) for name in names])]


def next_final(state: State, program: RunSpec) -> Step:
    final = chosen(state, program, "evolve")
    control = chosen(state, program, "control") if program.config.evolve.control else None
    for name, stage in ((control, "control"), (final, "final")):
        if name is not None:
            step = evaluation_steps(state, program, name, stage)
            if step is not None:
                return step
    return Finish("final/evaluate", final, control)
