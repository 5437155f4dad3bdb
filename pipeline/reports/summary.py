"""What a run found, for people and for tools: the row of an iteration, the final comparison.

Everything is computed from the ledger's state and the grades it names, so a report can be made
again at any time. Accuracies are shares with 95 % intervals; policies are compared on the same
questions, in pairs, bootstrapped by image.
"""

from __future__ import annotations

from typing import Any

from pipeline.phases.methods import stops_because
from pipeline.refs import PolicyRef
from pipeline.reports.card import chain_of, sha256_of
from pipeline.reports.comparison import comparisons, named_policies
from pipeline.reports.warnings import run_warnings
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, SAMPLED, State
from pipeline.storage.store import Store


def policy_results(state: State, program: RunSpec, policy: PolicyRef) -> dict[str, Any]:
    """What was measured of a policy: by split, greedy with its families, and Pass@K if sampled."""
    found: dict[str, Any] = {}
    for split in (program.config.data.validation, *program.test_splits):
        greedy = state.evaluation(policy, split, GREEDY)
        if greedy is None:
            continue
        found[split] = {key: value for key, value in greedy.items() if key != "grades"}
        sampled = state.evaluation(policy, split, SAMPLED)
        if sampled is not None:
            found[split]["pass_at"] = sampled["pass_at"]
    return found


def wall_seconds(state: State) -> float:
    """Seconds on the clock that the drivers of a run were at work, one after the other.

    Each counts from when it stood, just before it read the ledger, to the last event that it
    committed. Not in it: what comes before a driver stands (data read, Ray started), what it did
    after its last event when it was killed, and the time without a driver. A driver is in one stage
    at a time, so the stages share this time out without overlap, waiting included.
    """
    return sum(state.stage_s.values())


def stage_seconds(state: State) -> dict[str, float]:
    """The seconds of `wall_seconds` by kind of stage, all drivers of the run together.

    `prepare` is the time until a driver's first event.
    """
    found: dict[str, float] = {}
    for stage, seconds in state.stage_s.items():
        parts = stage.split("/")
        name = "/".join(part for part in parts if not part.isdigit())
        found[name] = round(found.get(name, 0.0) + seconds, 3)
    return found


def _identity(name: str, policy: PolicyRef, state: State) -> dict[str, str]:
    """Which policy of the run this is, the sha256 over its files, and where the store has it."""
    return {
        "name": chain_of(name, state),
        "version": policy.version,
        "sha256": sha256_of(policy),
        "path": policy.path,
    }


def labelled_queries(state: State, program: RunSpec) -> dict[str, int]:
    """How many labelled queries the answers of each policy's training were of."""
    done = len(state.iterations)
    control = program.control_queries(done) if program.config.evolve.control else ()
    return {
        "warmup": len(program.warmup_queries),
        "control": len(control),
        "final": len(program.evolved_queries(done)),
    }


def summary(state: State, program: RunSpec, store: Store) -> dict[str, Any]:
    """Everything of `summary.json`."""
    results = {
        name: policy_results(state, program, policy)
        for name, policy in named_policies(state).items()
    }
    return {
        "run": program.config.run.name,
        "seed": program.config.run.seed,
        "config_hash": state.config_hash,
        "versions": state.versions,
        "finished": state.finished,
        "policies": {
            name: _identity(name, policy, state) for name, policy in named_policies(state).items()
        },
        **results,
        "labelled_queries": labelled_queries(state, program),
        "comparisons": comparisons(state, program, store) if state.finished else {},
        "prm": state.prm and {**state.prm, "labels": state.labels},
        "evolution_ended": stops_because(state, program),
        "iterations": state.iterations,
        "temperatures": state.temperatures,
        "dynamics": state.dynamics,
        "warnings": run_warnings(state, program),
        "bad_queries": state.bad_queries,
        "stage_s": stage_seconds(state),
        "wall_s": round(wall_seconds(state), 3),
    }
