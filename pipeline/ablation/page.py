"""The page of an ablation, as markdown and as HTML: the same cells in both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.ablation.table import Difference, Figures, Line, adjusted, sentence
from pipeline.metrics.intervals import Estimate
from pipeline.reports.seeds import markdown, points
from pipeline.reports.tables import interval, percent

Cells = list[list[str]]

ABOUT = (
    "Greedy accuracy on the test questions in percent: the mean over seeds, in brackets Student's "
    "t interval of 95 % over seeds. Differences are in points and paired by seed (warm-up, slices "
    "and questions are the same), with the p value of the paired t test and the one adjusted by "
    "Holm for all comparisons of this page. True: the share of test questions answered correctly "
    "by a response that is true in every step. True among kept: the share of the responses that "
    "the iterations were trained on. Rollouts: responses sampled for the iterations and for "
    "searches for a temperature. The paper's figures (MathV360K held out, MathVista; one run of a "
    "model of 8 billion parameters) stand beside for orientation: neither task nor model is the "
    "same. Seconds are of a run's own work, without what it found in the store."
)

HEADER = ["row", "test", "minus baseline", "p", "p (Holm)", "true", "true among kept", "ood",
          "steps", "labelled queries", "rollouts", "seconds", "paper"]  # fmt: skip

UNTRAINED = ("base", "warmup")
"""Policies of a run that no iteration has trained."""

FURTHER = ["difference", "points", "p", "p (Holm)"]


def page(tables: Sequence[Figures]) -> tuple[str, str]:
    """The page of these tables, as markdown and as HTML."""
    tables = adjusted(tables)
    comparisons = sum(len(table.differences) for table in tables)
    parts = [_part(table, comparisons) for table in tables]
    about = [ABOUT, f"Comparisons on this page: {comparisons}."]
    return _markdown(about, parts), _html(about, parts)


def _part(table: Figures, comparisons: int) -> dict[str, Any]:
    """What the page says of a table."""
    by_row = {one.row: one for one in table.differences if one.baseline == table.table.baseline}
    further = table.differences[len(table.lines) - 1 :]
    return {
        "title": f"Table {table.name}: {table.table.title}",
        "rows": [HEADER, *(_cells(line, by_row.get(line.name)) for line in table.lines)],
        "further": [FURTHER, *map(_further, further)] if further else [],
        "sentence": sentence(table, comparisons),
        "notes": [
            f"Baseline: {table.table.baseline}. Seeds: {', '.join(map(str, table.seeds))}. "
            f"Test questions: {table.n}.",
            *_unequal(table),
            *_unmoved(table),
            *(f"{field}: {', '.join(values)}" for field, values in table.versions.items()),
        ],
    }


def _unequal(table: Figures) -> list[str]:
    """Which compared rows were trained for other numbers of optimizer steps."""
    lines = {line.name: line for line in table.lines}
    unequal = [
        f"{row} {lines[row].steps:.4g}, {baseline} {lines[baseline].steps:.4g}"
        for row, baseline in table.table.pairs
        if lines[row].row.policy not in UNTRAINED and lines[row].steps_R != lines[baseline].steps_R
    ]
    if not unequal:
        return ["Compared rows were trained for equally many optimizer steps, seed by seed."]
    return [f"Optimizer steps of compared rows that are not equal: {'; '.join(unequal)}."]


def _unmoved(table: Figures) -> list[str]:
    """Where what is evaluated is the policy that the row began with."""
    rows = [f"{line.name} ({line.unmoved})" for line in table.lines if line.unmoved]
    if not rows:
        return []
    return [
        "Seeds in which no iteration was better on validation than the warm-up, which is then what "
        f"is evaluated: {', '.join(rows)}."
    ]


def _cells(line: Line, difference: Difference | None) -> list[str]:
    paper = line.row.paper
    return [
        line.row.label or line.name,
        _share(line.test),
        *(_compared(difference) if difference else ["baseline", "", ""]),
        _share(line.true),
        _share(line.kept_true),
        _share(line.ood),
        f"{line.steps:.0f}",
        f"{line.queries:.0f}",
        "-" if line.rollouts is None else f"{line.rollouts:.0f}",
        f"{line.wall_s:.0f}",
        "" if paper is None else f"{paper[0]:.1f} / {paper[1]:.1f}",
    ]


def _share(one: Estimate | None) -> str:
    return "-" if one is None else f"{percent(one.value)} {interval(one.ci95)}"


def _compared(one: Difference) -> list[str]:
    found = one.found.difference
    return [points(found.value, found.ci95), _p(one.found.p), _p(one.adjusted)]


def _further(one: Difference) -> list[str]:
    return [f"{one.row} - {one.baseline}", *_compared(one)]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _markdown(about: Sequence[str], parts: Sequence[dict[str, Any]]) -> str:
    lines = ["# Ablation", ""]
    for text in about:
        lines += [text, ""]
    for part in parts:
        lines += [f"## {part['title']}", "", markdown(part["rows"]), ""]
        if part["further"]:
            lines += [markdown(part["further"]), ""]
        lines += [part["sentence"], "", *(f"* {note}" for note in part["notes"]), ""]
    return "\n".join(lines)


_HTML = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Ablation</title><style>
body { font-family: sans-serif; margin: 2rem; max-width: 90rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left; }
ul { color: #555; font-size: .85rem; }
</style></head><body>
<h1>Ablation</h1>
{% for text in about %}<p>{{ text }}</p>
{% endfor %}{% for part in parts %}<h2>{{ part.title }}</h2>
{% for rows in (part.rows, part.further) if rows %}<table>
<tr>{% for cell in rows[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows[1:] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}<p>{{ part.sentence }}</p>
<ul>{% for note in part.notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endfor %}</body></html>
"""


def _html(about: Sequence[str], parts: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Template

    text: str = Template(_HTML, autoescape=True).render(about=about, parts=parts)
    return text + "\n"
