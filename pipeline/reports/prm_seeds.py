"""What a process reward model was worth in runs of several seeds, by the checker's truth.

For each seed three runs that differ only in what they keep of the correct responses: the two with
the highest reward, two at random, all. What is said of the PRM is measured on the rollouts that the
first of them stored, by the process checker, which nothing in a run reads; what is said of the
policies, on the test questions, in pairs.

What always holds: a response is judged once for each time it was sampled, and Top-2 is asked about
what was there to choose from in one iteration; intervals resample questions by the images they
share, so all responses to a question (and to its neighbours) stand or fall together.

Axes: S steps of a response.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config.resume import Change, diff
from pipeline.config.section import SAME_CONTENT
from pipeline.errors import BadConfig, BadData
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.intervals import Estimate, as_json
from pipeline.prm.gate import (
    Scored,
    closed,
    closed_minus,
    step_auc,
    within_auc,
    within_auc_minus,
)
from pipeline.records import Rollout, Score
from pipeline.reports.prm_label_ceiling import ceiling
from pipeline.reports.replay import evolved
from pipeline.reports.seeds import Finished, points, queries_of, together
from pipeline.reports.summary import wall_seconds
from pipeline.reports.tables import decimals, percent
from pipeline.run.state import ShardState
from pipeline.selection.rules import Rule, candidates, own_score
from pipeline.stages.grade import graded_rows
from pipeline.storage.artifacts import read_rows
from pipeline.tasks.digits.build import Truth
from pipeline.tasks.digits.checker import Verdict, check

RULES = {"top2": Rule("top_k", 2), "random2": Rule("random_k", 2), "all": Rule("all_correct")}


@dataclass(frozen=True)
class Three:
    """The runs of one seed."""

    top2: Finished
    random2: Finished
    all: Finished


def check_rule(run: Finished, kind: str) -> None:
    """Refuse a run that does not keep what a run of this kind (`RULES`) does.

    Raises:
        BadConfig: naming the run and its rule.
    """
    rule = run.spec.rule
    if replace(rule, version=1).identity != RULES[kind].identity:
        raise BadConfig(
            f"run {run.name!r} is no {kind}: it selects by {rule.identity}, not "
            f"{RULES[kind].identity}"
        )


def by_seed(
    top2: Sequence[Finished], random2: Sequence[Finished], all_: Sequence[Finished]
) -> list[Three]:
    """The runs of each seed, in the order of the first kind.

    Raises:
        BadConfig: a run of another rule, a seed that one kind has and another lacks, or has twice,
            or runs of a seed that differ in more than what they keep (`check_alike`).
    """
    found: list[dict[int, Finished]] = []
    for kind, runs in zip(RULES, (top2, random2, all_), strict=True):
        seeds = [run.seed for run in runs]
        if sorted(seeds) != sorted({run.seed for run in top2}):
            wanted = ", ".join(str(run.seed) for run in top2)
            raise BadConfig(f"{kind}: one run of each of the seeds {wanted} is needed, not {seeds}")
        for run in runs:
            check_rule(run, kind)
        found.append(dict(zip(seeds, runs, strict=True)))
    threes = [Three(*(runs[run.seed] for runs in found)) for run in top2]
    for three in threes:
        check_alike(three)
    return threes


def check_alike(runs: Three) -> None:
    """Refuse runs of one seed that differ in more than what they keep: what is said of the PRM
    would be about something else too.

    Raises:
        BadConfig: naming the runs and the settings, data or warm-up policies that differ.
    """
    first = runs.top2
    for other in (runs.random2, runs.all):
        names = f"runs {first.name!r} and {other.name!r}"
        changes = diff(first.spec.config, other.spec.config)
        others = [change for change in changes if _matters(change)]
        if others:
            shown = "".join(f"\n  {change}" for change in others)
            raise BadConfig(f"{names} differ in more than select and prm:{shown}")
        if first.state.data != other.state.data:
            raise BadConfig(f"{names} are of other data")
        warmups = [run.state.policies["warmup"].version for run in (first, other)]
        if len(set(warmups)) > 1:
            raise BadConfig(f"{names} start from other warm-up policies: {', '.join(warmups)}")


def _matters(change: Change) -> bool:
    """Not machines and names; not paths either: what lies there is compared."""
    mine = change.key.startswith(("select.", "prm."))
    return not (mine or change.kind == "free" or change.note == SAME_CONTENT["note"])


# --- the PRM -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judged:
    """Correct, distinct responses with their truth, rewarded by the PRM, and by what costs nothing:
    their log-likelihood under the policy that they were sampled from."""

    by_prm: list[Scored]
    by_logprob: list[Scored]


def scored_truly(run: Finished, truth: Mapping[str, Truth]) -> Judged:
    """The correct, distinct responses of a run's iterations, with their scores and their truth.

    truth: by query id. A question that comes in two iterations is asked about twice.

    Raises:
        BadData: a query without truth, or with another's.
        ArtifactLost: an object is corrupt or gone.
    """
    queries = run.spec.splits[run.spec.config.data.train]
    group_of = dict(zip((q.content_hash for q in queries), image_groups(queries), strict=True))
    by_hash = run.spec.by_hash
    found = Judged([], [])
    for iteration, shards in evolved(run.events).items():
        for row, score in _with_scores(run, shards):
            query = by_hash[row.query]
            known = truth.get(query.query_id)
            if known is None or known.question.text != query.question:
                raise BadData(f"query {query.query_id}: the truth that was given is not about it")
            verdict = check(row.text, known.question, known.scene)
            scored = Scored(
                query=f"{iteration}/{row.query}",
                group=group_of[row.query],
                sample_index=row.sample_index,
                correct=True,
                scores_S=score.step_scores,
                reward=score.reward_p,
                values_S=true_values(verdict, len(score.step_scores)),
                process_right=verdict.process_true,
            )
            found.by_prm.append(scored)
            found.by_logprob.append(replace(scored, reward=own_score(row, "logprob")))
    return found


def _with_scores(run: Finished, shards: Sequence[ShardState]) -> Iterator[tuple[Rollout, Score]]:
    """The scored responses with a correct answer: `prm.scoring` may have scored others."""
    for shard in shards:
        if shard.scores is None or shard.grades is None:
            continue
        scores = {(s.query, s.sample_index): s for s in read_rows(run.store, shard.scores, Score)}
        rows, grades = graded_rows(run.store, shard.rollout, shard.grades)
        for row in candidates(rows, [grade.outcome for grade in grades]):
            score = scores.get((row.query, row.sample_index))
            if score is not None:
                yield row, score


def true_values(verdict: Verdict, steps: int) -> tuple[float | None, ...]:
    """1 for steps that hold, 0 for the first that does not, None for what comes after it.

    All None where the checker counts steps otherwise: the PRM's may be merged.
    """
    if len(verdict.steps_S) != steps:
        return (None,) * steps
    first = verdict.first_false
    if first is None:
        return (1.0,) * steps
    return (1.0,) * first + (0.0,) + (None,) * (steps - first - 1)


# --- the rows ------------------------------------------------------------------------------------


def prm_row(runs: Three, truth: Mapping[str, Truth]) -> dict[str, Any]:
    """What one seed found.

    auc_step: between correct and wrong steps of held-out labels (the PRM's card). auc_within: of
    the reward between true and false-positive responses to a question, and closed: see
    `prm.gate.closed`; both by the checker. logprob_*: the same of the log-likelihood that is stored
    with every response, and *_minus_logprob the PRM minus it, in pairs. *_checked and *_labels: the
    same by the other source.
    gate: what the card says by held-out labels, with n and intervals. ceiling: what these labels
    say of the checker itself (`prm_label_ceiling`). final_*: greedy accuracy on the test split;
    diff: Top-2 minus Random-2, all_diff: Top-2 minus all.
    """
    top2, test = runs.top2, runs.top2.test
    prm = top2.state.prm or {}
    outcomes = {kind: getattr(runs, kind).outcomes("final", test) for kind in RULES}
    queries = queries_of([runs.top2, runs.random2, runs.all], test)
    random2, all_ = (
        together(queries, [(outcomes["top2"], outcomes[kind])]) for kind in ("random2", "all")
    )
    return {
        "seed": top2.seed,
        "runs": {kind: getattr(runs, kind).name for kind in RULES},
        "used": prm.get("used"),
        **_by_checker(scored_truly(top2, truth)),
        **_by_labels(prm.get("card") or {}),
        "ceiling": ceiling(top2, truth),
        **{f"final_{kind}": _share(outcomes[kind]) for kind in RULES},
        **{f"kept_{kind}": _kept(getattr(runs, kind)) for kind in RULES},
        "n": random2.n,
        "diff": random2.value,
        "diff_ci95": list(random2.ci95),
        "all_diff": all_.value,
        "all_diff_ci95": list(all_.ci95),
        "wall_s": round(wall_seconds(top2.state), 1),
    }


def _by_checker(judged: Judged) -> dict[str, Any]:
    responses, free = judged.by_prm, judged.by_logprob
    choice, of_free = (as_json(closed(one, seed=0)) for one in (responses, free))
    step = as_json(step_auc(responses, seed=0))
    within, within_free = (as_json(within_auc(one, seed=0)) for one in (responses, free))
    return {
        "auc_step_checked": _value(step),
        **_with_interval("auc_within", within),
        "auc_within_n": 0 if within is None else within["n"],
        **_with_interval("closed", choice["closed"]),
        "questions": choice["questions"],
        "wrong_process": {name: _value(choice[name]) for name in ("random", "top", "oracle")},
        **_with_interval("logprob_auc_within", within_free),
        **_with_interval("logprob_closed", of_free["closed"]),
        **_with_interval(
            "auc_within_minus_logprob", as_json(within_auc_minus(responses, free, seed=0))
        ),
        **_with_interval("closed_minus_logprob", as_json(closed_minus(responses, free, seed=0))),
    }


def _with_interval(name: str, estimate: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: _value(estimate), f"{name}_ci95": _interval(estimate)}


def _by_labels(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says, without its bins; None for what it could not know."""
    calibration = card.get("calibration") or {}
    gate = {name: card.get(name) for name in ("auc_step", "auc_within", "auc_answer")}
    gate |= {name: calibration.get(name) for name in ("brier", "bias", "error")}
    return {
        "auc_step": _value(gate["auc_step"]),
        "auc_within_labels": _value(gate["auc_within"]),
        "gate": gate | {"first_wrong": card.get("first_wrong")},
    }


def _value(estimate: Mapping[str, Any] | None) -> float | None:
    return None if estimate is None else estimate["value"]


def _interval(estimate: Mapping[str, Any] | None) -> list[float] | None:
    return None if estimate is None else list(estimate["ci95"])


def _share(outcomes: Mapping[str, bool]) -> float:
    return sum(outcomes.values()) / len(outcomes)


def _kept(run: Finished) -> int:
    """Responses that the run trained on after its warm-up."""
    return sum(row["kept"] for row in run.state.iterations)


def prm_pooled(seeds: Sequence[Three]) -> dict[str, Estimate]:
    """Top-2 against the two others, over all seeds, on the test split."""
    test = seeds[0].top2.test
    found = {}
    for kind in ("random2", "all"):
        pairs = [
            (s.top2.outcomes("final", test), getattr(s, kind).outcomes("final", test))
            for s in seeds
        ]
        queries = queries_of([run for s in seeds for run in (s.top2, getattr(s, kind))], test)
        found[f"top2 - {kind}"] = together(queries, pairs)
    return found


def prm_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each seed, in percent and points."""
    lines = [["seed", "step AUC", "within-question AUC", "closed", "questions",
              "wrong process: random, Top-2, oracle", "final: Top-2", "Random-2", "all",
              "Top-2 - Random-2", "Top-2 - all", "trained on: Top-2, Random-2, all"]]  # fmt: skip
    for row in rows:
        wrong = [percent(row["wrong_process"][name]) for name in ("random", "top", "oracle")]
        lines.append(
            [
                str(row["seed"]),
                decimals(row["auc_step"]),
                decimals(row["auc_within"], row["auc_within_ci95"]),
                decimals(row["closed"], row["closed_ci95"]),
                str(row["questions"]),
                ", ".join(wrong),
                *(percent(row[f"final_{kind}"]) for kind in RULES),
                points(row["diff"], row["diff_ci95"]),
                points(row["all_diff"], row["all_diff_ci95"]),
                ", ".join(str(row[f"kept_{kind}"]) for kind in RULES),
            ]
        )
    return lines


FREE = ("auc_within", "logprob_auc_within", "auc_within_minus_logprob")  # and so for `closed`


def free_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each seed: the PRM beside the log-likelihood, which costs nothing."""
    lines = [["seed", "within-question AUC: PRM", "log-likelihood", "difference",
              "closed: PRM", "log-likelihood", "difference"]]  # fmt: skip
    keys = [*FREE, *(key.replace("auc_within", "closed") for key in FREE)]
    for row in rows:
        lines.append([str(row["seed"]), *(decimals(row[k], row[f"{k}_ci95"]) for k in keys)])
    return lines


def gate_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each seed, by held-out labels, n in parentheses: the PRM's card, and
    what the checker itself would have on such labels."""
    first = ("wrong", "clean")
    lines = [["seed", "step AUC", "within-question AUC", "answer AUC", "Brier score", "bias",
              "calibration error", "first wrong step found", "said to be clean, of clean",
              "the checker: step AUC", "within-question AUC"]]  # fmt: skip
    for row in rows:
        gate = row["gate"]
        found = [gate[name] for name in ("auc_step", "auc_within", "auc_answer", "brier", "bias")]
        found += [gate["error"], *((gate["first_wrong"] or {}).get(name) for name in first)]
        limits = row["ceiling"] or {}
        found += [limits.get(name) for name in ("checker_step", "checker_within")]
        lines.append([str(row["seed"]), *map(_estimate, found)])
    return lines


def _estimate(found: Mapping[str, Any] | None) -> str:
    return "-" if found is None else f"{decimals(found['value'], found['ci95'])} ({found['n']})"
