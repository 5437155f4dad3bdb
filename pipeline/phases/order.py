"""What a run does next: one pure function of what it has done (`State`) and what it is (`Program`).

The order of a run:

    base ──► measure it ──► warm-up: sample chains ──► (train ──► validation greedy)* until flat
         ──► measure the warm-up policy
         ──► with select.reward=prm: build and judge the process reward model (`prm_agenda`)
         ──► (sample a slice ──► train ──► validate ──► close)* for each iteration
         ──► control: (train as many steps on warm-up's data ──► validation greedy)*
         ──► measure control and final (best validation greedy, ties to the later) ──► done

The test splits are measured for base, warm-up, control and final; nothing is ever chosen by them.
"""

from __future__ import annotations

from pipeline.phases.control import next_control
from pipeline.phases.evaluate import evaluation_steps
from pipeline.phases.evolve import next_iteration
from pipeline.phases.final import next_final
from pipeline.phases.prm import next_prm
from pipeline.phases.steps import PublishFolder, Step
from pipeline.phases.warmup import next_warmup
from pipeline.run.spec import RunSpec
from pipeline.run.state import State

# --- the order -----------------------------------------------------------------------------------


def next_step(state: State, program: RunSpec) -> Step | None:
    """The one thing to do now; None when the run is finished."""
    if state.finished is not None:
        return None
    if "base" not in state.policies:
        return PublishFolder("prepare", "base", program.config.policy.path)
    return (
        evaluation_steps(state, program, "base", "base")
        or next_warmup(state, program)
        or evaluation_steps(state, program, "warmup", "warmup")
        or next_prm(state, program)
        or next_iteration(state, program)
        or next_control(state, program)
        or next_final(state, program)
    )
