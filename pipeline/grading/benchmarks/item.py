"""One question of a benchmark, and what a benchmark is: its prompt, its rule, what it counts."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.query import LETTERS

Values = Mapping[str, Any]
"""A row of the benchmark's data file as it was published, without its pictures."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    prompt: what is asked, in the benchmark's own words. choices: texts, "" none. answer: what the
    published rule compares with: a letter, or a text. kind: how it compares ("choice", or one of
    the benchmark's own). precision: decimal places, where the rule rounds. labels: by which figures
    are given besides. group: questions that only count together (rotations of one question).
    """

    prompt: str
    choices: tuple[str, ...]
    answer: str
    kind: str = "choice"
    precision: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    group: str = ""

    @property
    def options(self) -> dict[str, str]:
        """The choices by letter."""
        return dict(zip(LETTERS, self.choices, strict=False))


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark.

    name: on the command line. title: in tables. forms: the published data formats it is read from.
    needs: columns that its rows have and those of others in the same form lack.
    split: the split of a folder that is asked. files: what its data may be called in a folder of
    benchmarks, besides its name. item: a row as a question; None: not part of it.
    right: its published rule, on a response and an item. rule: that rule in words.
    reasoning: whether it is also judged by the rule for responses that reason first.
    by: the labels that figures are given by; mean_over: the label whose values' mean is the
    published figure, "" for the mean over questions.
    """

    name: str
    title: str
    forms: tuple[str, ...]
    split: str
    item: Callable[[Values], Item | None]
    right: Callable[[str, Item], bool]
    rule: str
    by: tuple[str, ...] = ()
    mean_over: str = ""
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    reasoning: bool = False


def text(values: Values, *names: str) -> str:
    """The first of these columns that is not empty, as text; "" when none is."""
    for name in names:
        value = values.get(name)
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def texts(values: Values, name: str) -> tuple[str, ...]:
    """A list of texts, as such or as a Python list's text; of nothing, none."""
    value = values.get(name)
    if isinstance(value, str):
        value = literal_eval(value) if value.strip() else None
    return tuple(str(one).strip() for one in value or ())


def lettered(choices: Sequence[str], form: str) -> str:
    """Choices a line, as "(A) x" or "A. x": form holds {letter} and {choice}."""
    pairs = zip(LETTERS, choices, strict=False)
    return "\n".join(form.format(letter=letter, choice=choice) for letter, choice in pairs)
