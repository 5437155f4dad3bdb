"""From judged responses to a benchmark's figures: the strict one, and beside it the rule's own.

Questions that only count together (rotations of one question) are one, right when all of them are.
Shares are between 0 and 1; intervals are Wilson's, 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.grading.benchmarks import reasoning_rule
from pipeline.grading.benchmarks.item import Benchmark, Item
from pipeline.metrics.intervals import proportion


@dataclass(frozen=True)
class Judged:
    """A response to a question of a benchmark.

    outcome: of this project's grader. official: right by the published rule. truncated: it ended at
    the limit of tokens. reasoning: right by the rule for responses that reason first; None: the
    benchmark is not judged by it.
    """

    item: Item
    outcome: str
    official: bool
    truncated: bool
    reasoning: bool | None = None


def figures(benchmark: Benchmark, judged: Sequence[Judged]) -> dict[str, Any]:
    """The figures of a benchmark, all its questions together and by each of its labels.

    `asked` counts responses, `n` questions; `incomplete` those left out because a rotation of
    theirs has no response. Raises ValueError for none.
    """
    questions = len(_by_group(judged))
    judged = [one for group in _complete(_by_group(judged)) for one in group]
    found: dict[str, Any] = _shares(judged)
    found |= {
        "asked": len(judged),
        "incomplete": questions - found["n"],
        "timeouts": sum(one.outcome == "timeout" for one in judged),
        "truncated": sum(one.truncated for one in judged) / len(judged),
        "rule": benchmark.rule,
        "by": {label: _by(judged, label) for label in benchmark.by},
    }
    if benchmark.reasoning:
        found["reasoning_rule"] = reasoning_rule.WORDS
    if benchmark.mean_over:
        parts = found["by"][benchmark.mean_over].values()
        for name in ("strict", "official"):
            found[name]["mean_over"] = {
                benchmark.mean_over: sum(part[name]["value"] for part in parts) / len(parts)
            }
    return found


def _by(judged: Sequence[Judged], label: str) -> dict[str, Any]:
    values = sorted({one.item.labels[label] for one in judged})
    return {
        value: _shares([one for one in judged if one.item.labels[label] == value])
        for value in values
    }


def _shares(judged: Sequence[Judged]) -> dict[str, Any]:
    if not judged:
        raise ValueError("no response was judged")
    groups = _by_group(judged)
    strict = [all(one.outcome == "correct" for one in group) for group in groups]
    official = [all(one.official for one in group) for group in groups]
    found = {
        "n": len(groups),
        "strict": _share(strict),
        "official": _share(official),
        "unparsed": sum(one.outcome == "unparsed" for one in judged) / len(judged),
    }
    if judged[0].reasoning is not None:
        found["reasoning"] = _share([all(one.reasoning for one in group) for group in groups])
    return found


def _by_group(judged: Sequence[Judged]) -> list[list[Judged]]:
    """The responses to each question: to its rotations, where it has some."""
    found: dict[object, list[Judged]] = {}
    for one in judged:
        found.setdefault(one.item.group or id(one), []).append(one)
    return list(found.values())


def _complete(groups: list[list[Judged]]) -> list[list[Judged]]:
    """The questions with a response to each rotation of their choices; all, where none is rotated:
    fewer rotations would be easier."""
    if all(len(group) == 1 for group in groups):
        return groups
    return [group for group in groups if len(group) >= len(group[0].item.choices)]


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    estimate = proportion(hits)
    return {"value": estimate.value, "ci95": list(estimate.ci95)}


def average(
    found: Mapping[str, Mapping[str, Any]], names: Sequence[str], which: str
) -> float | None:
    """The mean of some benchmarks' figures, as the paper's average; None where one is missing."""
    if not all(name in found for name in names):
        return None
    return float(sum(found[name][which]["value"] for name in names)) / len(names)
