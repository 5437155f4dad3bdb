"""What is said of policies on published benchmarks: a line, the table of them all, categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.grading.benchmarks.figures import average
from pipeline.reports.tables import interval, percent, text_table

Found = dict[str, dict[str, dict[str, Any]]]
"""Figures by policy and benchmark."""

RULES = {"strict": "strict", "official": "published rule", "reasoning": "reasoning rule"}
"""The figures of a benchmark in the order of tables, and their names; the last is of some only."""


def one_line(title: str, found: Mapping[str, Any]) -> str:
    """The figures of a benchmark in words."""
    strict, official = found["strict"], found["official"]
    reasoning = found.get("reasoning")
    also = "" if reasoning is None else f", by the reasoning rule {percent(reasoning['value'])}"
    return (
        f"{title}, n = {found['n']}: strict {percent(strict['value'])} "
        f"{interval(strict['ci95'])}, by the published rule ({found['rule']}) "
        f"{percent(official['value'])}{also}; {percent(found['unparsed'])} % unreadable, "
        f"{percent(found['truncated'])} % truncated"
    )


def overview(found: Found, names: Sequence[str], averaged: Sequence[str]) -> list[str]:
    """Policies by benchmarks in percent, by each rule, and the mean of those that are averaged."""
    rows = [["policy", *names, "average"]]
    for policy, of in found.items():
        cells = [
            " / ".join(percent(of[name][rule]["value"]) for rule in RULES if rule in of[name])
            for name in names
        ]
        means = [percent(average(of, averaged, which)) for which in ("strict", "official")]
        rows.append([policy, *cells, " / ".join(means) if "-" not in means else "-"])
    head = (
        "Strict / published rule (MathVista: / reasoning rule), in percent; the average is of the "
        "paper's five benchmarks."
    )
    return [head, "", *text_table(rows).splitlines()]


def categories(found: Found, titles: Mapping[str, str]) -> list[str]:
    """A table for each benchmark that has categories: their figures with intervals, in percent."""
    lines: list[str] = []
    for name, title in titles.items():
        of = {policy: figures[name] for policy, figures in found.items()}
        rules = [rule for rule in RULES if all(rule in one for one in of.values())]
        rows = [
            [policy, f"{label}: {value}", str(part["n"]), *_cells(part, rules)]
            for policy, one in of.items()
            for label, parts in one["by"].items()
            for value, part in parts.items()
        ]
        if rows:
            head = ["policy", "category", "n", *(RULES[r] for r in rules), "unparsed"]
            lines += ["", f"{title}, with 95 % intervals", ""]
            lines += text_table([head, *rows]).splitlines()
    return lines


def _cells(part: Mapping[str, Any], rules: Sequence[str]) -> list[str]:
    shares = (f"{percent(part[r]['value'])} {interval(part[r]['ci95'])}" for r in rules)
    return [*shares, percent(part["unparsed"])]
