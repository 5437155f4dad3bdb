"""What a finished run says of a cell: accuracy, process truth, what it took.

Shares are between 0 and 1. Process truth is the verdict of the checker of `digits` and nothing in a
run reads it; without the checker's truth it is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import BadData
from pipeline.reports.seeds import Finished
from pipeline.reports.selected import phases_of, selected_rows
from pipeline.reports.summary import labelled_queries, wall_seconds
from pipeline.run.spec import evaluation_purpose
from pipeline.run.state import GREEDY
from pipeline.stages.grade import graded_rows
from pipeline.tasks.digits.build import Truth
from pipeline.tasks.digits.checker import check

SAMPLED_FOR = ("evolve", "unlabelled", "explore")
"""Purposes and stages that sample what an iteration trains on, or how it is to be sampled."""

Truths = Mapping[str, Truth]
"""What the checker needs, by query id."""


def figures(run: Finished, policy: str, truth: Truths | None) -> dict[str, Any]:
    """The figures of a policy of a run, by the names of a cell's JSON.

    test, ood: greedy accuracy on the first and second test split. test_true: share of test
    questions whose greedy response is correct and true in every step. rollouts: responses sampled
    for its iterations and its searches for a temperature. kept, kept_true: those of them that the
    iterations were trained on, and the share of these that is. steps: optimizer steps after
    the warm-up; queries: labelled ones it has seen; policy: which of the run it is.

    Raises:
        BadConfig: the run has no such policy or no test split. ArtifactLost: an object is gone.
    """
    version, tests = run.policy(policy), run.spec.test_splits
    result = run.state.evaluation(version, run.test, GREEDY)
    assert result is not None, f"{policy} of a finished run was evaluated on {run.test}"
    ood = run.state.evaluation(version, tests[1], GREEDY) if len(tests) > 1 else None
    kept = _kept(run, truth) if policy == "final" else (None, None)
    return {
        "test": result["greedy"],
        "test_true": _true_greedy(run, policy, truth),
        "ood": None if ood is None else ood["greedy"],
        "n": result["n"],
        "policy": _name(run, policy),
        "kept": kept[0],
        "kept_true": kept[1],
        "rollouts": _rollouts(run) if policy == "final" else None,
        "steps": _steps(run, policy),
        "queries": labelled_queries(run.state, run.spec).get(policy, 0),
        "wall_s": round(wall_seconds(run.state), 1),
        "base": run.state.policies["base"].version,
        "grader": run.spec.grader,
        "commit": commit_of(run.state.versions),
    }


def commit_of(versions: Mapping[str, str]) -> str:
    """The commit among the versions of a run; where none is known, the hash of the code."""
    return versions.get("commit", versions.get("code", "unknown"))


def _name(run: Finished, policy: str) -> str:
    """Which policy of the run it is: final and control are chosen by validation, and may be the
    warm-up."""
    chosen = run.state.finished or {}
    return str(chosen.get(policy) or policy)


def _steps(run: Finished, policy: str) -> int:
    chain = {"final": "evolve", "control": "control"}.get(policy)
    return sum(job.steps for name, job in run.state.jobs.items() if name.split("/")[0] == chain)


def _true_greedy(run: Finished, policy: str, truth: Truths | None) -> float | None:
    if truth is None:
        return None
    purpose, judged = evaluation_purpose(run.policy(policy), run.test, GREEDY), []
    for (name, _), shard in run.shard_facts.items():
        if name != purpose:
            continue
        rows, grades = graded_rows(run.store, shard["rollout"], shard["grades"])
        for row, grade in zip(rows, grades, strict=True):
            question = run.spec.by_hash[row.query].question
            true = _process_true(row.text, row.query_id, question, truth)
            judged.append(true and grade.outcome == "correct")
    return sum(judged) / len(judged)


def _kept(run: Finished, truth: Truths | None) -> tuple[int, float | None]:
    """Responses that the iterations were trained on, and the share that is true in every step."""
    count, true = 0, 0
    for phase in phases_of(run):
        if phase.split("/")[0] not in SAMPLED_FOR:
            continue  # of the warm-up and the control
        for row in selected_rows(run, phase):
            count += 1
            if truth is not None:
                true += _process_true(row["response"], row["query_id"], row["question"], truth)
    return count, None if truth is None or not count else true / count


def _rollouts(run: Finished) -> int:
    """Rows of the shards sampled for training and for searches, found in the store or not."""
    rows: dict[str, int] = {}
    for event in run.wires:
        if event["type"] == "shard_accepted":
            # Dynamics share purposes with searches, and iterations have stages of evaluation.
            firsts = {event[name].partition("/")[0] for name in ("stage", "purpose")}
            if firsts <= {*SAMPLED_FOR}:
                rows[event["key"]] = event["rows"]
    return sum(rows.values())


def _process_true(response: str, query_id: str, question: str, truth: Truths) -> bool:
    """
    Raises:
        BadData: there is no truth about this query, or about another one of its name.
    """
    known = truth.get(query_id)
    if known is None or known.question.text != question:
        raise BadData(f"query {query_id}: the truth beside the data is not about it")
    return check(response, known.question, known.scene).process_true
