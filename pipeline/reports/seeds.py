"""What runs of several seeds found: a row for each, and their paired differences together.

What always holds: two policies are compared on the same questions, in pairs, and every interval
resamples questions by the images they share. Runs of several seeds answer the same test questions,
so a question's differences of all seeds stand in one group: the pooled interval is about questions.
What another seed may give is in the interval over seeds (`seed_lines`). Shares are between 0 and 1.

Axes: Q questions, R runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import BadConfig
from pipeline.metrics.accuracy import image_groups
from pipeline.metrics.intervals import Estimate, over_seeds, paired_difference
from pipeline.query import Query
from pipeline.refs import PolicyRef
from pipeline.reports.comparison import comparisons, greedy_outcomes, named_policies
from pipeline.reports.summary import policy_results, wall_seconds
from pipeline.reports.tables import interval, percent
from pipeline.run.stored import StoredRun

Outcomes = Mapping[str, bool]
"""Whether a query, by its content hash, is answered correctly, greedily."""


class Finished(StoredRun):
    """A finished run."""

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.spec.config.run.seed

    @property
    def test(self) -> str:
        """The split that counts; the other test splits are reported as found.

        Raises:
            BadConfig: the run's data had no test split.
        """
        if not self.spec.test_splits:
            raise BadConfig(f"run {self.name!r} was evaluated on no test split: its data had none")
        return self.spec.test_splits[0]

    def policy(self, name: str) -> PolicyRef:
        """A policy by the name of `report.POLICIES`.

        Raises:
            BadConfig: the run has none of this name.
        """
        found = named_policies(self.state)
        if name not in found:
            raise BadConfig(f"run {self.name!r} has no policy {name!r}, only {', '.join(found)}")
        return found[name]

    def outcomes(self, name: str, split: str) -> Outcomes:
        """How a policy answered a split.

        Raises:
            BadConfig: the run was not evaluated on this split.
            ArtifactLost: a shard of grades is corrupt or gone.
        """
        found = greedy_outcomes(self.state, self.store, self.policy(name), split)
        if found is None:
            raise BadConfig(f"run {self.name!r} did not measure {name} on {split}")
        return found


def together(
    queries: Sequence[Query], pairs_R: Sequence[tuple[Outcomes, Outcomes]], *, seed: int = 0
) -> Estimate:
    """The mean of a - b over the questions that both answered, in all pairs.

    Args:
        queries: all questions that may be in the pairs; a question may be named several times.

    Raises:
        ValueError: no pair has a question in common.
    """
    unique = list({query.content_hash: query for query in queries}.values())
    group_of = dict(zip((q.content_hash for q in unique), image_groups(unique), strict=True))
    asked = [(a, b, name) for a, b in pairs_R for name in group_of if name in a and name in b]
    return paired_difference(
        [float(a[name]) for a, _, name in asked],
        [float(b[name]) for _, b, name in asked],
        [group_of[name] for _, _, name in asked],
        seed=seed,
    )


def queries_of(runs: Sequence[Finished], split: str) -> list[Query]:
    """The questions of a split of all runs, one run after the other."""
    return [query for run in runs for query in run.spec.splits[split]]


# --- the loop ------------------------------------------------------------------------------------


def loop_row(run: Finished) -> dict[str, Any]:
    """What a run of the loop found on its test split, and as found on the others.

    `diff` and `ci95` are final minus warm-up, `control_*` final minus control (None without one).
    """
    found = comparisons(run.state, run.spec, run.store)
    gain = found["final - warmup"][run.test]
    control = found.get("final - control", {}).get(run.test, {})
    others = run.spec.test_splits[1:]
    return {
        "seed": run.seed,
        "run": run.name,
        "config_hash": run.state.config_hash,
        "n": gain["n"],
        **greedies(run, run.test),
        "diff": gain["diff"],
        "ci95": gain["ci95"],
        "control_diff": control.get("diff"),
        "control_ci95": control.get("ci95"),
        "families": gain["families"],
        "families_rise": share_rising(gain["families"]),
        **{
            split: greedies(run, split)
            | {key: found["final - warmup"][split][key] for key in ("diff", "ci95", "n")}
            for split in others
        },
        "wall_s": round(wall_seconds(run.state), 1),
    }


def greedies(run: Finished, split: str) -> dict[str, float | None]:
    """Greedy accuracy of base, warm-up, control and final; None for what the run does not have."""
    policies = named_policies(run.state)
    found: dict[str, float | None] = {}
    for name in ("base", "warmup", "control", "final"):
        policy = policies.get(name)
        results = {} if policy is None else policy_results(run.state, run.spec, policy)
        found[name] = results[split]["greedy"] if split in results else None
    return found


def share_rising(families: Mapping[str, float]) -> float:
    """The share of families with a difference above 0."""
    return sum(value > 0 for value in families.values()) / len(families)


def loop_pooled(runs: Sequence[Finished]) -> dict[str, Estimate]:
    """Final against warm-up and control over all runs, on the test split.

    What not all runs have is left out.
    """
    split = runs[0].test
    queries = queries_of(runs, split)
    found = {}
    for worse in ("warmup", "control"):
        if all(worse in named_policies(run.state) for run in runs):
            pairs = [(run.outcomes("final", split), run.outcomes(worse, split)) for run in runs]
            found[f"final - {worse}"] = together(queries, pairs)
    return found


def loop_table(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A header and a line for each seed, in percent and points."""
    others = [
        name for name, value in rows[0].items() if isinstance(value, dict) and "diff" in value
    ]
    header = ["seed", "base", "warm-up", "control", "final", "final - warm-up", "final - control",
              "families that rise"]  # fmt: skip
    header += [f"{name}: warm-up, final, difference" for name in others]
    lines = [[*header, "seconds"]]
    for row in rows:
        line = [str(row["seed"])]
        line += [percent(row[name]) for name in ("base", "warmup", "control", "final")]
        line += [points(row["diff"], row["ci95"]), points(row["control_diff"], row["control_ci95"])]
        rise = sum(value > 0 for value in row["families"].values())
        line.append(f"{rise} of {len(row['families'])}")
        for name in others:
            one = row[name]
            line.append(
                f"{percent(one['warmup'])}, {percent(one['final'])}, "
                f"{points(one['diff'], one['ci95'])}"
            )
        lines.append([*line, f"{row['wall_s']:.0f}"])
    return lines


# --- plain text ----------------------------------------------------------------------------------


def points(diff: float | None, ci95: Sequence[float] | None) -> str:
    """A difference in points with its interval, `-` when there is none."""
    return "-" if diff is None else f"{100 * diff:+.1f} {interval(ci95)}"


def pooled_lines(found: Mapping[str, Estimate], runs: int) -> list[str]:
    """The pooled differences in words."""
    return [
        f"{name}: {points(one.value, one.ci95)} points, seeds: {runs}, pairs: {one.n}, "
        "clustered by image"
        for name, one in found.items()
    ]


def seed_lines(rows: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> list[str]:
    """The differences of rows, one a seed, in words, with Student's t interval over the seeds.

    keys: which number of a row each difference is; one that a row lacks is left out.
    """
    lines = []
    for name, key in keys.items():
        values = [row[key] for row in rows if row[key] is not None]
        if len(values) >= 2:
            one = over_seeds(values)
            shown = f"{points(one.value, one.ci95)} points over {one.n} seeds (Student's t)"
            lines.append(f"{name}: {shown}")
        elif values:
            lines.append(f"{name}: one seed, which says nothing about others")
    return lines


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Lines as a markdown table, the first one its header."""
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])
