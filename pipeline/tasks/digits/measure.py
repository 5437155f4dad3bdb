"""What the samples of a policy say about the `digits` task: head-room, choice, label quality.

Measurement only. A response is *correct* when its answer is graded correct, *true* when the process
checker also finds its steps true and its answer settled by them, and a *false positive* when it is
correct and not true.

Axes: Q queries, K samples of a query, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.grading.grade import grade
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.auc import auc_by_group
from pipeline.metrics.intervals import Estimate, bootstrap_by_group, proportion
from pipeline.query import Query
from pipeline.responses import format_ok
from pipeline.tasks.digits.build import Truth
from pipeline.tasks.digits.checker import Verdict, check

SEED = 0  # of every bootstrap


@dataclass(frozen=True)
class Judged:
    """One response, graded and checked; `outcome` is that of the grader."""

    text: str
    outcome: str
    formatted: bool
    true: bool
    verdict: Verdict

    @property
    def correct(self) -> bool:
        return self.outcome == "correct"


def judge(text: str, finished: bool, query: Query, truth: Truth) -> Judged:
    """Grade and check one response; one cut by the length limit is unparsed."""
    verdict = check(text, truth.question, truth.scene)
    outcome = grade(text, query) if finished else "unparsed"
    formatted = finished and format_ok(text)
    return Judged(text, outcome, formatted, outcome == "correct" and verdict.process_true, verdict)


def families(queries_Q: Sequence[Query]) -> dict[str, list[int]]:
    """The indices of each family's queries, "all" first."""
    rows: dict[str, list[int]] = {"all": list(range(len(queries_Q)))}
    for index, query in enumerate(queries_Q):
        rows.setdefault(query.source.removeprefix("digits/"), []).append(index)
    return rows


def headroom_table(
    queries_Q: Sequence[Query], greedy_Q: Sequence[Judged], samples_Q_K: Sequence[Sequence[Judged]]
) -> dict[str, dict[str, Estimate]]:
    """Per family: greedy, Pass@K and process-true Pass@K, their gap, and what there is to choose.

    `choice` and `mixed` are shares of the queries with a correct sample: those with three or more
    distinct correct ones, and those where, besides, some of these are true and some are not.
    """
    groups_Q = image_groups(queries_Q)
    columns = {
        "greedy": np.array([g.correct for g in greedy_Q], float),
        "greedy_true": np.array([g.true for g in greedy_Q], float),
        "format": np.array([g.formatted for g in greedy_Q], float),
        "sampled": np.array([np.mean([s.correct for s in row]) for row in samples_Q_K]),
        "pass": np.array([any(s.correct for s in row) for row in samples_Q_K], float),
        "true_pass": np.array([any(s.true for s in row) for row in samples_Q_K], float),
    }
    columns["headroom"] = columns["true_pass"] - columns["greedy"]
    choice_Q, mixed_Q = zip(*(_choice(row) for row in samples_Q_K), strict=True)
    table = {}
    for family, members in families(queries_Q).items():
        groups = [groups_Q[i] for i in members]
        row = {
            name: bootstrap_by_group(values[members], groups, seed=SEED)
            for name, values in columns.items()
        }
        solved = [i for i in members if columns["pass"][i]]
        if solved:
            row["choice"] = proportion([choice_Q[i] for i in solved])
            row["mixed"] = proportion([mixed_Q[i] for i in solved])
        table[family] = row
    return table


def _choice(samples_K: Sequence[Judged]) -> tuple[bool, bool]:
    distinct = {sample.text: sample.true for sample in samples_K if sample.correct}
    enough = len(distinct) >= 3
    return enough, enough and len(set(distinct.values())) == 2


@dataclass(frozen=True)
class StepValue:
    """A step of a sampled response and the share of completions from it that were correct."""

    query: int
    family: str
    first_false: bool
    value: float


def label_table(values: Sequence[StepValue]) -> dict[str, dict[str, Any]]:
    """Per family: AUC of the value between true steps and first false ones, and their means.

    The row "mean" holds the average of the families' AUCs. Intervals resample queries.
    """

    def row(members: list[StepValue]) -> dict[str, Any]:
        true = [v.value for v in members if not v.first_false]
        false = [v.value for v in members if v.first_false]
        estimate = auc_by_group(
            [v.value for v in members],
            [not v.first_false for v in members],
            [v.query for v in members],
            seed=SEED,
            strata_Q=[v.family for v in members],
        )
        return {
            "auc": estimate,
            "true": float(np.mean(true)),
            "n_true": len(true),
            "first_false": float(np.mean(false)),
            "n_first_false": len(false),
        }

    names = sorted({v.family for v in values})
    return {"mean": row(list(values))} | {
        name: row([v for v in values if v.family == name]) for name in names
    }
