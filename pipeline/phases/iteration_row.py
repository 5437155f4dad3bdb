"""One iteration's row: its figures from the state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.phases.lineage import policy_before, temperature_of
from pipeline.phases.methods import last_learning_rate
from pipeline.run.spec import RunSpec
from pipeline.run.state import GREEDY, SAMPLED, State
from pipeline.selection.coverage import Coverage, choice_totals


def iteration_row(state: State, spec: RunSpec, iteration: int) -> dict[str, Any]:
    """One iteration in figures: what was sampled, kept and learned, and how good it made the
    policy on the validation split."""
    purpose, validation = f"evolve/{iteration}", spec.config.data.validation
    policy, job, drawn = state.policies[purpose], state.jobs[purpose], spec.slice(iteration)
    closed = state.closed.get(purpose) or _of_gold(len(drawn))
    counts = closed["coverage"]
    samples = max(1, counts["samples"])
    greedy = state.evaluation(policy, validation, GREEDY) or {}
    sampled = state.evaluation(policy, validation, SAMPLED)
    return {
        "iteration": iteration,
        "sampled_from": policy_before(state, iteration).version,
        "policy": policy.version,
        "temperature": temperature_of(state, spec, iteration),
        "queries": len(drawn),
        "samples": counts["samples"],
        "coverage": counts["queries_kept"] / max(1, len(drawn)),
        "correct": counts["correct"] / samples,
        "unparsed": counts["unparsed"] / samples,
        "timeout": counts["timeout"] / samples,
        "cut": counts["cut"] / samples,
        "kept": counts["kept"],
        "steps": job.steps,
        "loss": job.report.get("loss"),
        "learning_rate": last_learning_rate(state, spec, "evolve", iteration),
        "logprob_deviation": job.report.get("logprob_deviation"),
        "greedy": greedy.get("greedy"),
        "n": greedy.get("n"),
        "ci95": greedy.get("ci95"),
        "pass_at": sampled["pass_at"] if sampled is not None else {},
        "reward_pass_2": (sampled or {}).get("reward_pass_2"),
        **_unlabelled(state, iteration),
        "choice": choice_totals(shard.choice for shard in state.shards.get(purpose, {}).values()),
        **_speed(state, iteration, closed["tokens"], job.report),
    }


def _speed(
    state: State, iteration: int, labelled_tokens: int, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Seconds of an iteration's stages, and tokens by second; labelled_tokens: sampled for its
    labelled queries; report: the learner's."""
    purpose, unlabelled = f"evolve/{iteration}", f"unlabelled/{iteration}"
    learn_s = state.stage_s.get(f"{purpose}/learn", 0.0)
    generate_s = sum(state.stage_s.get(f"{pool}/generate", 0.0) for pool in (purpose, unlabelled))
    tokens = labelled_tokens + state.closed.get(unlabelled, {}).get("tokens", 0)
    return {
        "generate_s": generate_s,
        "learn_s": learn_s,
        "evaluate_s": state.stage_s.get(f"{purpose}/evaluate", 0.0),
        "generate_tokens_per_s": tokens / generate_s if generate_s else None,
        "learn_tokens_per_s": report["tokens"] / learn_s if learn_s and report else None,
    }


def _of_gold(answers: int) -> dict[str, Any]:
    """In place of what was sampled, where an iteration trains on gold answers."""
    coverage = Coverage(queries=answers, queries_kept=answers, kept=answers)
    return {"coverage": coverage.to_dict(), "rows": 0, "tokens": 0}


def _unlabelled(state: State, iteration: int) -> dict[str, Any]:
    """Of an iteration that drew unlabelled queries: how many and what was kept of them and, with
    pseudo-labels, how many there are and which share of those whose truth is known is correct."""
    closed = state.closed.get(f"unlabelled/{iteration}")
    if closed is None:
        return {}
    counts, pseudo = closed["coverage"], closed.get("pseudo")
    figures = {"queries": counts["queries"], "samples": counts["samples"], "kept": counts["kept"]}
    if pseudo is not None:
        checked = pseudo["known"]
        figures |= {
            "pseudo_labels": pseudo["taken"],
            "known": checked,
            "correct_pseudo_labels": pseudo["correct"] / checked if checked else None,
        }
    return {"unlabelled": figures}
