"""Tables in plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.reports.comparison import POLICIES

ITERATION_COLUMNS = (
    "policy", "greedy % [95 %]", "pass@K %", "coverage %", "kept", "correct %", "truncated %",
    "unparsed %", "steps", "loss", "rate", "gen tok/s", "learn tok/s", "gen s", "learn s", "eval s",
)  # fmt: skip

# What a narrow terminal does without, first to last.
DISPENSABLE = (
    "learn tok/s", "gen tok/s", "eval s", "learn s", "gen s", "rate", "steps", "coverage %",
    "truncated %", "unparsed %", "pass@K %", "loss", "kept",
)  # fmt: skip


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, `-` when there is none."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def decimals(value: float | None, ci95: Sequence[float] | None = None, digits: int = 2) -> str:
    """A figure that is no share, with its interval where it has one; "-" without a value."""
    if value is None:
        return "-"
    limits = "" if ci95 is None else f" [{ci95[0]:.{digits}f}, {ci95[1]:.{digits}f}]"
    return f"{value:.{digits}f}{limits}"


def interval(ci95: Sequence[float] | None) -> str:
    """An interval of shares in percent."""
    return "" if ci95 is None else f"[{percent(ci95[0])}, {percent(ci95[1])}]"


def iteration_table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> list[list[str]]:
    """A header and the row of each iteration, named by the policy that it made.

    How many answers could not be graded in time stands last, where any iteration has some (they are
    neither correct nor wrong, and none would ever show among the shares); pseudo-labels stand
    there too. The temperature stands second, where it changes.

    width: characters that a line may have; the most dispensable columns are left out until it fits.
    """
    table = [list(ITERATION_COLUMNS), *map(iteration_cells, rows)]
    if len({row.get("temperature") for row in rows}) > 1:  # not in the rows of earlier programs
        temperatures = ["T", *(f"{row['temperature']:g}" for row in rows)]
        table = [[line[0], cell, *line[1:]] for line, cell in zip(table, temperatures, strict=True)]
    if any(row["timeout"] for row in rows):
        extra = ["timed out", *(str(round(row["timeout"] * row["samples"])) for row in rows)]
        table = [[*line, cell] for line, cell in zip(table, extra, strict=True)]
    if any("pseudo_labels" in row.get("unlabelled", {}) for row in rows):
        cells = (_pseudo_labels(row.get("unlabelled", {})) for row in rows)
        table = [[*line, cell] for line, cell in zip(table, ["pseudo-labels", *cells], strict=True)]
    for column in DISPENSABLE:
        if width is None or max(map(len, text_table(table).splitlines())) <= width:
            break
        place = table[0].index(column)
        table = [line[:place] + line[place + 1 :] for line in table]
    return table


def _pseudo_labels(unlabelled: Mapping[str, Any]) -> str:
    """How many queries have one and, where the truth is known, which share of them is correct."""
    if "pseudo_labels" not in unlabelled:
        return "-"
    rate = unlabelled["correct_pseudo_labels"]
    known = "" if rate is None else f" ({percent(rate)} % correct)"
    return f"{unlabelled['pseudo_labels']}{known}"


def iteration_cells(row: Mapping[str, Any]) -> list[str]:
    """An iteration's row under `ITERATION_COLUMNS`."""
    passes = row["pass_at"]
    largest = max(passes, key=int) if passes else None
    rate = row.get("learning_rate")  # not in the rows of earlier programs
    loss, speeds = row["loss"], (row["generate_tokens_per_s"], row["learn_tokens_per_s"])
    return [
        f"evolve/{row['iteration']}",
        f"{percent(row['greedy'])} {interval(row['ci95'])}",
        "-" if largest is None else f"{percent(passes[largest]['value'])} (K={largest})",
        percent(row["coverage"]),
        str(row["kept"]),
        percent(row["correct"]),
        percent(row["cut"]),
        percent(row["unparsed"]),
        str(row["steps"]),
        "-" if loss is None else f"{loss:.3f}",
        "-" if rate is None else f"{rate:.1e}",
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
    seen = found.get("labelled_queries", {})
    counts = ", ".join(f"{name} {count}" for name, count in seen.items() if count)
    lines = [f"labelled queries seen: {counts}"] if counts else []
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
