"""Paired comparisons of the final policies, query by query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import ArtifactLost
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.evaluation import family_means, outcomes_by_query
from pipeline.metrics.intervals import paired_difference
from pipeline.records import Grade
from pipeline.refs import PolicyRef
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, State
from pipeline.storage.artifacts import read_rows
from pipeline.storage.store import Store

POLICIES = ("base", "warmup", "control", "final")


def named_policies(state: State) -> dict[str, PolicyRef]:
    """base, warmup, control and final, as far as the run has them."""
    found: dict[str, PolicyRef] = {}
    for name in ("base", "warmup"):
        if name in state.policies:
            found[name] = state.policies[name]
    if state.finished is not None:
        found |= compared_policies(state, state.finished)
    return found


def compared_policies(state: State, finished: Mapping[str, Any]) -> dict[str, PolicyRef]:
    """The policies of the final comparison by name; `finished` says which final and control are."""
    of = {"base": "base", "warmup": "warmup", **{name: finished[name] for name in POLICIES[2:]}}
    return {name: state.policies[policy] for name, policy in of.items() if policy is not None}


def greedy_outcomes(
    state: State, store: Store, policy: PolicyRef, split: str
) -> dict[str, bool] | None:
    """Which queries of a split a policy answers correctly, greedily; None when not evaluated.

    Raises:
        ArtifactLost: grades are corrupt or gone; the driver makes them again.
    """
    result = state.evaluation(policy, split, GREEDY)
    if result is None:
        return None
    rows: list[Grade] = []
    for path in result["grades"]:
        try:
            rows += read_rows(store, path, Grade)
        except ArtifactLost as lost:
            again = "the command that made this run makes it again when it is started once more"
            raise ArtifactLost(path, f"{lost.reason}; {again}") from lost
    return {query: found[0] == "correct" for query, found in outcomes_by_query(rows).items()}


def comparisons(state: State, program: RunSpec, store: Store) -> dict[str, dict[str, Any]]:
    """Final against warm-up and control, warm-up against base: by test split, all and families."""
    policies = named_policies(state)
    pairs = [("final", "warmup"), ("final", "control"), ("warmup", "base")]
    found: dict[str, dict[str, Any]] = {}
    for better, worse in pairs:
        if better not in policies or worse not in policies:
            continue
        for split in program.test_splits:
            a = greedy_outcomes(state, store, policies[better], split)
            b = greedy_outcomes(state, store, policies[worse], split)
            if a is not None and b is not None:
                one = _paired(program, split, a, b)
                found.setdefault(f"{better} - {worse}", {})[split] = one
    return found


def _paired(
    program: RunSpec, split: str, a: Mapping[str, bool], b: Mapping[str, bool]
) -> dict[str, Any]:
    queries_Q = [q for q in program.splits[split] if q.content_hash in a and q.content_hash in b]
    groups_Q = image_groups(queries_Q)
    a_Q = [float(a[query.content_hash]) for query in queries_Q]
    b_Q = [float(b[query.content_hash]) for query in queries_Q]
    whole = paired_difference(a_Q, b_Q, groups_Q, seed=0)
    differences_Q = [left - right for left, right in zip(a_Q, b_Q, strict=True)]
    return {
        "diff": whole.value,
        "n": whole.n,
        "ci95": list(whole.ci95),
        "families": family_means(queries_Q, differences_Q),
    }
