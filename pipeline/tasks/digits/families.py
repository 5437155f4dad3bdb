"""The question families of `digits`: what is asked, what the answer is, what a proof must hold.

A family is a question maker. Each question names the cells it needs, the kinds of statement that
can settle it and its gold answer; the explanations (`chains`) and the process checker (`checker`)
both read that and nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.query import AnswerType
from pipeline.tasks.digits.scenes import Scene

LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    `needs` are the cells whose digits an explanation has to read. `settles` are the kinds of
    statement (`checker.Statement.kind`) that may be the last one before the answer.
    """

    family: str
    text: str
    choices: tuple[str, ...] | None
    answer: str
    answer_type: AnswerType
    needs: tuple[str, ...]
    settles: tuple[str, ...]


def _two(scene: Scene, rng: random.Random) -> tuple[str, str]:
    first, second = rng.sample(scene.cells, 2)
    return first, second


def ask_sum(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    text = rng.choice(
        [f"What is the sum of the {a} and {b} digits?", f"Add the {a} digit and the {b} digit."]
    )
    total = scene.digit(a) + scene.digit(b)
    return Question("sum", text, None, str(total), "number", (a, b), ("plus",))


def ask_difference(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    text = rng.choice(
        [
            f"What is the difference between the {a} and {b} digits?",
            f"How far apart are the {a} digit and the {b} digit?",
        ]
    )
    gap = abs(scene.digit(a) - scene.digit(b))
    return Question("difference", text, None, str(gap), "number", (a, b), ("minus",))


def ask_sum_three(scene: Scene, rng: random.Random) -> Question:
    left_out = rng.choice(scene.cells)
    cells = tuple(cell for cell in scene.cells if cell != left_out)
    text = rng.choice(
        [
            f"What is the sum of all digits except the {left_out} one?",
            f"Leave out the {left_out} digit and add the others.",
        ]
    )
    total = sum(scene.digit(cell) for cell in cells)
    return Question("sum_three", text, None, str(total), "number", cells, ("plus",))


def ask_sum_all(scene: Scene, rng: random.Random) -> Question:
    text = rng.choice(["What is the sum of all digits?", "Add all the digits in the grid."])
    total = sum(scene.digits)
    return Question("sum_all", text, None, str(total), "number", scene.cells, ("plus",))


def ask_parity(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    parity = rng.choice(["even", "odd"])
    text = rng.choice(
        [
            f"Is the sum of the {a} and {b} digits {parity}?",
            f"Do the {a} and {b} digits add up to an {parity} number?",
        ]
    )
    is_even = (scene.digit(a) + scene.digit(b)) % 2 == 0
    answer = "yes" if is_even == (parity == "even") else "no"
    return Question("parity", text, None, answer, "yes_no", (a, b), ("parity",))


RELATIONS = ("larger", "smaller", "equal")


def ask_compare(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    text = rng.choice(
        [
            f"How does the {a} digit compare to the {b} digit?",
            f"Is the {a} digit larger than the {b} digit, smaller or equal?",
        ]
    )
    first, second = scene.digit(a), scene.digit(b)
    relation = "larger" if first > second else "smaller" if first < second else "equal"
    letter = LETTERS[RELATIONS.index(relation)]
    return Question("compare", text, RELATIONS, letter, "letter", (a, b), ("compare",))


def ask_product(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    text = f"What is the {a} digit times the {b} digit?"
    product = scene.digit(a) * scene.digit(b)
    return Question("product", text, None, str(product), "number", (a, b), ("times",))


def ask_twice_plus(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    text = f"What is twice the {a} digit plus the {b} digit?"
    total = 2 * scene.digit(a) + scene.digit(b)
    return Question("twice_plus", text, None, str(total), "number", (a, b), ("plus",))


def ask_smallest(scene: Scene, rng: random.Random) -> Question:
    text = rng.choice(["What is the smallest digit?", "Which digit is the smallest?"])
    return Question(
        "smallest", text, None, str(min(scene.digits)), "number", scene.cells, ("smallest",)
    )


def ask_difference_even(scene: Scene, rng: random.Random) -> Question:
    a, b = _two(scene, rng)
    text = f"Is the difference between the {a} and {b} digits even?"
    answer = "yes" if (scene.digit(a) - scene.digit(b)) % 2 == 0 else "no"
    return Question("difference_even", text, None, answer, "yes_no", (a, b), ("parity",))


Maker = Callable[[Scene, random.Random], Question]

FAMILIES: dict[str, Maker] = {
    "sum": ask_sum,
    "difference": ask_difference,
    "sum_three": ask_sum_three,
    "sum_all": ask_sum_all,
    "parity": ask_parity,
    "compare": ask_compare,
}
"""Families of train, validation and test, on the `grid` layout."""

OOD_FAMILIES: dict[str, Maker] = {
    "product": ask_product,
    "twice_plus": ask_twice_plus,
    "smallest": ask_smallest,
    "difference_even": ask_difference_even,
}
"""Families of `ood`, on the `row` layout; never seen in training of any kind."""
