"""What a run found, for people and for tools: the row of an iteration, the final comparison.

Everything is computed from the ledger's state and the grades it names, so a report can be made
again at any time. Accuracies are shares with 95 % intervals; policies are compared on the same
questions, in pairs, bootstrapped by image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.accuracy import image_groups
from pipeline.agenda import policy_before
from pipeline.measure import outcomes_by_query
from pipeline.metrics import paired_difference
from pipeline.plan import slice_of
from pipeline.program import Program
from pipeline.records import Grade
from pipeline.roles import PolicyRef
from pipeline.select import choice_totals
from pipeline.stages import Lost, read_rows
from pipeline.state import GREEDY, SAMPLED, State
from pipeline.store import Store

POLICIES = ("base", "warmup", "control", "final")


def iteration_row(state: State, program: Program, iteration: int) -> dict[str, Any]:
    """One iteration in figures: what was sampled, kept and learned, and how good it made the
    policy on the validation split."""
    purpose, validation = f"evolve/{iteration}", program.config.data.validation
    policy, job, closed = state.policies[purpose], state.jobs[purpose], state.closed[purpose]
    counts = closed["coverage"]
    samples = max(1, counts["samples"])
    generate_s, learn_s = (state.stage_s.get(f"{purpose}/{s}", 0.0) for s in ("generate", "learn"))
    config = program.config
    drawn = slice_of(program.pool, iteration, config.evolve.interval, config.run.seed)
    greedy = state.evaluation(policy, validation, GREEDY) or {}
    sampled = state.evaluation(policy, validation, SAMPLED)
    return {
        "iteration": iteration,
        "sampled_from": policy_before(state, iteration).version,
        "policy": policy.version,
        "temperature": config.generate.temperature,
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
        "logprob_deviation": job.report.get("logprob_deviation"),
        "greedy": greedy.get("greedy"),
        "n": greedy.get("n"),
        "ci95": greedy.get("ci95"),
        "pass_at": sampled["pass_at"] if sampled is not None else {},
        "reward_pass_2": (sampled or {}).get("reward_pass_2"),
        "choice": choice_totals(shard.choice for shard in state.shards.get(purpose, {}).values()),
        "generate_s": generate_s,
        "learn_s": learn_s,
        "evaluate_s": state.stage_s.get(f"{purpose}/evaluate", 0.0),
        "generate_tokens_per_s": closed["tokens"] / generate_s if generate_s else None,
        "learn_tokens_per_s": job.report["tokens"] / learn_s if learn_s and job.report else None,
    }


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


def policy_results(state: State, program: Program, policy: PolicyRef) -> dict[str, Any]:
    """What was measured of a policy: by split, greedy with its families, and Pass@K if sampled."""
    data, found = program.config.data, {}
    for split in (data.validation, *data.test):
        greedy = state.evaluation(policy, split, GREEDY)
        if greedy is None:
            continue
        found[split] = {key: value for key, value in greedy.items() if key != "grades"}
        sampled = state.evaluation(policy, split, SAMPLED)
        if sampled is not None:
            found[split]["pass_at"] = sampled["pass_at"]
    return found


def greedy_outcomes(
    state: State, store: Store, policy: PolicyRef, split: str
) -> dict[str, bool] | None:
    """Which queries of a split a policy answers right, greedily; None when not measured.

    Raises:
        Lost: grades are corrupt or gone; the driver makes them again.
    """
    result = state.evaluation(policy, split, GREEDY)
    if result is None:
        return None
    rows: list[Grade] = []
    for path in result["grades"]:
        try:
            rows += read_rows(store, path, Grade)
        except Lost as lost:
            again = "the command that made this run makes it again when it is started once more"
            raise Lost(path, f"{lost.reason}; {again}") from lost
    return {query: found[0] == "correct" for query, found in outcomes_by_query(rows).items()}


def comparisons(state: State, program: Program, store: Store) -> dict[str, dict[str, Any]]:
    """Final against warm-up and control, warm-up against base: by test split, all and families."""
    policies = named_policies(state)
    pairs = [("final", "warmup"), ("final", "control"), ("warmup", "base")]
    found: dict[str, dict[str, Any]] = {}
    for better, worse in pairs:
        if better not in policies or worse not in policies:
            continue
        for split in program.config.data.test:
            a = greedy_outcomes(state, store, policies[better], split)
            b = greedy_outcomes(state, store, policies[worse], split)
            if a is not None and b is not None:
                one = _paired(program, split, a, b)
                found.setdefault(f"{better} - {worse}", {})[split] = one
    return found


def _paired(
    program: Program, split: str, a: Mapping[str, bool], b: Mapping[str, bool]
) -> dict[str, Any]:
    queries_Q = [q for q in program.splits[split] if q.content_hash in a and q.content_hash in b]
    groups_Q = image_groups(queries_Q)
    a_Q = [float(a[query.content_hash]) for query in queries_Q]
    b_Q = [float(b[query.content_hash]) for query in queries_Q]
    whole = paired_difference(a_Q, b_Q, groups_Q, seed=0)
    families: dict[str, list[float]] = {}
    for query, left, right in zip(queries_Q, a_Q, b_Q, strict=True):
        families.setdefault(query.source, []).append(left - right)
    return {
        "diff": whole.value,
        "n": whole.n,
        "ci95": list(whole.ci95),
        "families": {name: sum(part) / len(part) for name, part in sorted(families.items())},
    }


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


def summary(state: State, program: Program, store: Store) -> dict[str, Any]:
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
        **results,
        "comparisons": comparisons(state, program, store) if state.finished else {},
        "prm": state.prm and {**state.prm, "labels": state.labels},
        "iterations": state.iterations,
        "bad_queries": state.bad_queries,
        "stage_s": stage_seconds(state),
        "wall_s": round(wall_seconds(state), 3),
    }


# --- plain text ----------------------------------------------------------------------------------


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, `-` when there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def interval(ci95: Sequence[float] | None) -> str:
    """An interval of shares in percent."""
    return "" if ci95 is None else f"[{percent(ci95[0])}, {percent(ci95[1])}]"


ITERATION_COLUMNS = (
    "iter", "greedy % [95 %]", "pass@K %", "coverage %", "kept", "right %", "cut %", "unparsed %",
    "steps", "loss", "gen tok/s", "learn tok/s", "gen s", "learn s", "eval s",
)  # fmt: skip


def iteration_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and the row of each iteration.

    How many answers could not be graded in time stands last, where any iteration has some (they are
    neither right nor wrong, and none would ever show among the shares).
    """
    table = [list(ITERATION_COLUMNS), *map(iteration_cells, rows)]
    if any(row["timeout"] for row in rows):
        extra = ["timed out", *(str(round(row["timeout"] * row["samples"])) for row in rows)]
        table = [[*line, cell] for line, cell in zip(table, extra, strict=True)]
    return table


def iteration_cells(row: Mapping[str, Any]) -> list[str]:
    """An iteration's row under `ITERATION_COLUMNS`."""
    passes = row["pass_at"]
    largest = max(passes, key=int) if passes else None
    loss, speeds = row["loss"], (row["generate_tokens_per_s"], row["learn_tokens_per_s"])
    return [
        str(row["iteration"] + 1),
        f"{percent(row['greedy'])} {interval(row['ci95'])}",
        "-" if largest is None else f"{percent(passes[largest]['value'])} (K={largest})",
        percent(row["coverage"]),
        str(row["kept"]),
        percent(row["correct"]),
        percent(row["cut"]),
        percent(row["unparsed"]),
        str(row["steps"]),
        "-" if loss is None else f"{loss:.3f}",
        *("-" if speed is None else f"{speed:.0f}" for speed in speeds),
        *(f"{row[key]:.1f}" for key in ("generate_s", "learn_s", "evaluate_s")),
    ]


def comparison_rows(found: Mapping[str, Any], splits: Sequence[str]) -> list[list[str]]:
    """A header and one line for each test split and family: accuracy of each policy in percent."""
    names = [name for name in POLICIES if found.get(name)]
    rows = [["split", "family", "n", "chance", *names]]
    for split in splits:
        whole = {name: found[name][split] for name in names if split in found[name]}
        if not whole:
            continue
        first = next(iter(whole.values()))
        rows.append(
            [split, "all", str(first["n"]), percent(first["chance"])]
            + [_accuracy(whole.get(name), with_interval=True) for name in names]
        )
        for family in first["families"]:
            one = first["families"][family]
            rows.append(
                [split, family, str(one["n"]), percent(one["chance"])]
                + [
                    _accuracy(whole[name]["families"].get(family) if name in whole else None)
                    for name in names
                ]
            )
    return rows


def _accuracy(result: Mapping[str, Any] | None, with_interval: bool = False) -> str:
    if result is None:
        return "-"
    text = percent(result["greedy"])
    return f"{text} {interval(result['ci95'])}" if with_interval else text


def difference_lines(found: Mapping[str, Any]) -> list[str]:
    """The paired differences in points, one line each."""
    lines = []
    for name, splits in found["comparisons"].items():
        for split, one in splits.items():
            rising = sum(value > 0 for value in one["families"].values())
            lines.append(
                f"{name} on {split}: {percent(one['diff'])} points {interval(one['ci95'])}, paired "
                f"by image, n = {one['n']}; {rising} of {len(one['families'])} families rise"
            )
    return lines


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned plain text, the first one a header."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
