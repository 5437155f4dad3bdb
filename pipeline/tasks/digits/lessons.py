"""What the base model of `digits` is pretrained on: its parts, never the composed questions.

Three kinds of lesson: reading single digits off a picture, arithmetic and comparison in text alone,
and explanations of a question *whose gold answer stands in the prompt* (what warm-up asks of a base
model). No lesson pairs a question of an evaluated family with its explanation or its answer without
the gold answer in the prompt.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.prompts import WARMUP_TEMPLATE
from pipeline.tasks.digits import chains
from pipeline.tasks.digits.families import FAMILIES, LETTERS, Question
from pipeline.tasks.digits.scenes import GRID, ROW, Scene, draw_scene

ROW_SHARE = 0.25  # of single-digit readings, on the layout of `ood`


@dataclass(frozen=True)
class Lesson:
    """One pretraining example: a prompt (about a scene, or text alone) and its response."""

    prompt: str
    response: str
    scene: Scene | None = None
    asked_cells: tuple[str, ...] = ()


def asked(question: Question) -> str:
    """The text of a question with its lettered choices."""
    lines = [f"({LETTERS[i]}) {choice}" for i, choice in enumerate(question.choices or ())]
    return "\n".join([question.text, *lines])


def read_one(pool: tuple[int, ...], rng: random.Random) -> Lesson:
    """The digit of one cell, answered at once."""
    scene = draw_scene(ROW if rng.random() < ROW_SHARE else GRID, pool, rng)
    cell = rng.choice(scene.cells)
    prompt = rng.choice(
        [f"What is the {cell} digit?", f"Which digit is at {cell}?", f"Read the {cell} digit."]
    )
    return Lesson(prompt, chains.response_of([], str(scene.digit(cell))), scene, (cell,))


def read_several(pool: tuple[int, ...], rng: random.Random) -> Lesson:
    """Two or more cells, each read in a statement of its own."""
    scene = draw_scene(ROW if rng.random() < ROW_SHARE else GRID, pool, rng)
    cells = tuple(rng.sample(scene.cells, rng.randint(2, len(scene.cells))))
    answer = ", ".join(str(scene.digit(cell)) for cell in cells)
    steps = chains.say_readings(cells, scene, rng)
    prompt = f"Read the {', '.join(cells)} digits."
    return Lesson(prompt, chains.response_of(steps, answer), scene, cells)


def explain_with_gold(pool: tuple[int, ...], rng: random.Random) -> Lesson:
    """A question with its gold answer in the prompt, and an explanation true in every step."""
    scene = draw_scene(GRID, pool, rng)
    question = FAMILIES[rng.choice(list(FAMILIES))](scene, rng)
    prompt = WARMUP_TEMPLATE.format(question=asked(question), gold=question.answer)
    return Lesson(prompt, chains.explain(question, scene, rng), scene, question.needs)


def _digit(rng: random.Random, top: int = 9) -> int:
    return rng.randint(0, top)


def _text(prompt: str, steps: list[str], answer: object) -> Lesson:
    return Lesson(prompt, chains.response_of(steps, str(answer)))


def text_plus(rng: random.Random) -> Lesson:
    a, b = _digit(rng, rng.choice([9, 18, 27])), _digit(rng)
    prompt = rng.choice(
        [f"What is {a} plus {b}?", f"Add {a} and {b}.", f"x is {a} and y is {b}. Add x and y."]
    )
    return _text(prompt, [chains.say_plus(a, b, rng)], a + b)


def text_sum(rng: random.Random) -> Lesson:
    values = [_digit(rng) for _ in range(rng.choice([3, 4]))]
    steps, total = chains.sum_steps(values, rng)
    listed = ", ".join(str(value) for value in values[:-1]) + f" and {values[-1]}"
    return _text(rng.choice([f"Add {listed}.", f"What is the sum of {listed}?"]), steps, total)


def text_minus(rng: random.Random) -> Lesson:
    a, b = _digit(rng), _digit(rng)
    prompt = rng.choice(
        [
            f"What is the difference between {a} and {b}?",
            f"How far apart are {a} and {b}?",
            f"x is {a} and y is {b}. How far apart are they?",
        ]
    )
    return _text(prompt, [chains.say_minus(a, b, rng)], abs(a - b))


def text_signed_minus(rng: random.Random) -> Lesson:
    a, b = _digit(rng), _digit(rng)
    prompt = rng.choice([f"What is {a} minus {b}?", f"Take {b} from {a}."])
    return _text(prompt, [chains.say_signed_minus(a, b, rng)], a - b)


def text_number(rng: random.Random) -> Lesson:
    a, b = _digit(rng), _digit(rng)
    prompt = rng.choice([f"Write {a} and then {b}.", f"Which number is {a} tens and {b}?"])
    return _text(prompt, [chains.say_number(a, b, rng)], 10 * a + b)


def text_times(rng: random.Random) -> Lesson:
    a, b = _digit(rng), _digit(rng)
    return _text(f"What is {a} times {b}?", [f"{a} times {b} is {a * b}"], a * b)


def text_largest(rng: random.Random) -> Lesson:
    values = [_digit(rng) for _ in range(rng.choice([2, 3, 4, 4]))]
    start = rng.choice(["Which is the largest: ", "What is the largest of "])
    listed = ", ".join(str(value) for value in values)
    return _text(f"{start}{listed}?", [chains.say_largest(values, rng)], max(values))


def text_smallest(rng: random.Random) -> Lesson:
    values = [_digit(rng) for _ in range(rng.choice([2, 3, 4, 4]))]
    listed = ", ".join(str(value) for value in values)
    step = f"the smallest of {listed} is {min(values)}"
    return _text(f"Which is the smallest: {listed}?", [step], min(values))


def text_parity(rng: random.Random) -> Lesson:
    value, word = _digit(rng, 18), rng.choice(["even", "odd"])
    answer = "yes" if (value % 2 == 0) == (word == "even") else "no"
    return _text(f"Is {value} {word}?", [chains.say_parity(value, rng)], answer)


def text_compare(rng: random.Random) -> Lesson:
    a = _digit(rng, 18)
    b = a if rng.random() < 0.15 else _digit(rng, 18)
    return _text(f"Compare {a} and {b}.", [chains.say_compare(a, b, rng)], max(a, b))


# How often each is drawn: sums most, because every chain that fails at them is lost.
TEXT_LESSONS: dict[Callable[[random.Random], Lesson], int] = {
    text_plus: 8,
    text_sum: 6,
    text_minus: 8,
    text_signed_minus: 5,
    text_number: 2,
    text_times: 1,
    text_largest: 2,
    text_smallest: 1,
    text_parity: 3,
    text_compare: 4,
}


def text_alone(rng: random.Random) -> Lesson:
    """Arithmetic or comparison without a picture."""
    makers = list(TEXT_LESSONS)
    return rng.choices(makers, weights=list(TEXT_LESSONS.values()))[0](rng)
