"""Explanations of `digits` questions in many wordings, for pretraining the base model.

Used only where the gold answer stands in the prompt (what warm-up asks of a base model, paper
section 1). A right explanation has no fixed text: the order of readings, how many share a step and
the wording of every statement are drawn, so that a policy which learns them stays varied.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pipeline.responses import ANSWER_HEADING, STEP_BREAK
from pipeline.tasks.digits.families import Question
from pipeline.tasks.digits.scenes import Scene


def response_of(steps: list[str], answer: str) -> str:
    """The text of a response: steps, the answer heading, the answer (paper section 1)."""
    return STEP_BREAK.join([*steps, ANSWER_HEADING, answer])


def say_reading(cell: str, digit: int, rng: random.Random) -> str:
    return rng.choice(
        [
            f"{cell} is {digit}",
            f"the {cell} digit is {digit}",
            f"{cell} shows {digit}",
            f"at {cell} I read {digit}",
        ]
    )


def say_plus(a: int, b: int, rng: random.Random) -> str:
    return rng.choice(
        [f"{a} plus {b} is {a + b}", f"{a} + {b} = {a + b}", f"adding {a} and {b} gives {a + b}"]
    )


def say_minus(a: int, b: int, rng: random.Random) -> str:
    high, low = max(a, b), min(a, b)
    return rng.choice(
        [
            f"{high} minus {low} is {high - low}",
            f"{high} - {low} = {high - low}",
            f"from {low} to {high} is {high - low}",
        ]
    )


def say_signed_minus(a: int, b: int, rng: random.Random) -> str:
    return rng.choice([f"{a} minus {b} is {a - b}", f"{a} - {b} = {a - b}"])


def say_number(a: int, b: int, rng: random.Random) -> str:
    return rng.choice([f"{a} tens and {b} is {10 * a + b}", f"{a} followed by {b} is {10 * a + b}"])


def say_largest(values: list[int], rng: random.Random) -> str:
    listed = ", ".join(str(value) for value in values)
    return rng.choice(
        [
            f"the largest of {listed} is {max(values)}",
            f"among {listed} the largest is {max(values)}",
        ]
    )


def say_parity(value: int, rng: random.Random) -> str:
    word = "odd" if value % 2 else "even"
    return rng.choice([f"{value} is {word}", f"{value} is an {word} number"])


RELATIONS_SAID = {
    "=": ("{a} equals {b}", "{a} = {b}"),
    ">": ("{a} is larger than {b}", "{a} > {b}"),
    "<": ("{a} is smaller than {b}", "{a} < {b}"),
}


def relation_of(a: int, b: int) -> str:
    return "=" if a == b else ">" if a > b else "<"


def say_relation(a: int, b: int, relation: str, rng: random.Random) -> str:
    return rng.choice(RELATIONS_SAID[relation]).format(a=a, b=b)


def say_compare(a: int, b: int, rng: random.Random) -> str:
    """How the first compares to the second."""
    return say_relation(a, b, relation_of(a, b), rng)


def say_option(letter: str, rng: random.Random) -> str:
    return rng.choice([f"that is option {letter}", f"so option {letter}"])


def say_readings(cells: tuple[str, ...], scene: Scene, rng: random.Random) -> list[str]:
    """One reading for each cell, some of them sharing a step."""
    said = [say_reading(cell, scene.digit(cell), rng) for cell in cells]
    steps: list[str] = []
    for statement in said:
        if steps and " and " not in steps[-1] and rng.random() < 0.3:
            steps[-1] += f" and {statement}"
        else:
            steps.append(statement)
    return steps


def _shuffled(cells: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    order = list(cells)
    rng.shuffle(order)
    return tuple(order)


def sum_steps(values: list[int], rng: random.Random) -> tuple[list[str], int]:
    total, steps = values[0], []
    for value in values[1:]:
        steps.append(say_plus(total, value, rng))
        total += value
    return steps, total


def explain_sum(question: Question, scene: Scene, rng: random.Random) -> list[str]:
    cells = _shuffled(question.needs, rng)
    steps, _ = sum_steps([scene.digit(cell) for cell in cells], rng)
    return say_readings(cells, scene, rng) + steps


def explain_difference(question: Question, scene: Scene, rng: random.Random) -> list[str]:
    cells = _shuffled(question.needs, rng)
    a, b = (scene.digit(cell) for cell in cells)
    return [*say_readings(cells, scene, rng), say_minus(a, b, rng)]


def explain_parity(question: Question, scene: Scene, rng: random.Random) -> list[str]:
    total = sum(scene.digit(cell) for cell in question.needs)
    return [*explain_sum(question, scene, rng), say_parity(total, rng)]


def explain_compare(question: Question, scene: Scene, rng: random.Random) -> list[str]:
    a, b = (scene.digit(cell) for cell in question.needs)
    readings = say_readings(_shuffled(question.needs, rng), scene, rng)
    return [*readings, say_compare(a, b, rng), say_option(question.answer, rng)]


EXPLAIN: dict[str, Callable[[Question, Scene, random.Random], list[str]]] = {
    "sum": explain_sum,
    "difference": explain_difference,
    "sum_three": explain_sum,
    "sum_all": explain_sum,
    "parity": explain_parity,
    "compare": explain_compare,
}


def explain(question: Question, scene: Scene, rng: random.Random) -> str:
    """A response that is true in every step, in a wording drawn by `rng`."""
    steps = EXPLAIN[question.family](question, scene, rng)
    return response_of(steps, question.answer)
