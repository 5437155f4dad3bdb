"""Lessons of judging for the base model of `digits`: single statements, about half of them false.

A statement is a reading against a picture, or arithmetic, parity or a comparison in text; what is
false about it is what a policy gets wrong (a digit misread or of another cell, a result off by a
little, the other relation, broken words). Statements of a lesson have nothing to do with each
other: no lesson is a chain of a family, and none gives or hints at an answer to a question.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.tasks.digits import chains
from pipeline.tasks.digits.lessons import text_alone
from pipeline.tasks.digits.scenes import GRID, ROW, Scene, draw_scene
from pipeline.tasks.digits.statements import read_step

ROW_SHARE = 0.2  # of pictures, in the layout of `ood`
FALSE_SHARE = 0.5
PAIR_SHARE = 0.25  # of readings: two in one step, as chains have them
BROKEN_SHARE = 0.2  # of false statements: words lost, doubled or out of place
OTHER_CELL_SHARE = 0.3  # of false readings: the digit of another cell

PROMPT = "Judge each statement."


@dataclass(frozen=True)
class Judged:
    """A step, whether it is true, and the word that decides it as it should read.

    right: the last digit of the result, the digit that is really there, the parity or the relation;
    None where no single word decides (two readings in one step, broken words).
    """

    text: str
    true: bool
    right: str | None = None


@dataclass(frozen=True)
class Judging:
    """Unrelated steps to judge one by one, about a scene or in text alone."""

    prompt: str
    steps: tuple[Judged, ...]
    scene: Scene | None = None


def _misread(cell: str, scene: Scene, rng: random.Random) -> int:
    digit = scene.digit(cell)
    others = [other for other in scene.digits if other != digit]
    if others and rng.random() < OTHER_CELL_SHARE:
        return rng.choice(others)
    return rng.choice([other for other in range(10) if other != digit])


def judge_reading(scene: Scene, true: bool, rng: random.Random) -> Judged:
    """One reading, or two in a step of which one at least is false when the step is."""
    if rng.random() < PAIR_SHARE:
        cells = rng.sample(scene.cells, 2)
        hold = [True, True] if true else rng.choice([[True, False], [False, True], [False, False]])
        said = [_say_cell(cell, scene, held, rng) for cell, held in zip(cells, hold, strict=True)]
        return Judged(" and ".join(said), true)
    cell = rng.choice(scene.cells)
    return Judged(_say_cell(cell, scene, true, rng), true, str(scene.digit(cell)))


def _say_cell(cell: str, scene: Scene, true: bool, rng: random.Random) -> str:
    digit = scene.digit(cell) if true else _misread(cell, scene, rng)
    return chains.say_reading(cell, digit, rng)


def _off(text: str, result: int, rng: random.Random) -> str:
    """The same statement with another result, which stands last in every wording."""
    near = [result + by for by in (-3, -2, -1, -1, 1, 1, 2, 3) if result + by >= 0]
    return text.removesuffix(str(result)) + str(rng.choice(near))


def judge_plus(true: bool, rng: random.Random) -> Judged:
    a, b = rng.randint(0, rng.choice([9, 9, 18, 27])), rng.randint(0, 9)
    text = chains.say_plus(a, b, rng)
    return Judged(text if true else _off(text, a + b, rng), true, str((a + b) % 10))


def judge_minus(true: bool, rng: random.Random) -> Judged:
    a, b = rng.randint(0, 9), rng.randint(0, 9)
    text = chains.say_minus(a, b, rng)
    return Judged(text if true else _off(text, abs(a - b), rng), true, str(abs(a - b)))


def judge_parity(true: bool, rng: random.Random) -> Judged:
    value = rng.randint(0, 18)
    text = chains.say_parity(value, rng)
    right, other = ("odd", "even") if value % 2 else ("even", "odd")
    return Judged(text if true else text.replace(right, other), true, right)


def judge_compare(true: bool, rng: random.Random) -> Judged:
    a = rng.randint(0, 9)
    b = a if rng.random() < 0.15 else rng.randint(0, 9)
    right = said = chains.relation_of(a, b)
    if not true:
        said = rng.choice([other for other in chains.RELATIONS_SAID if other != right])
    return Judged(chains.say_relation(a, b, said, rng), true, right)


IN_TEXT: dict[Callable[[bool, random.Random], Judged], int] = {
    judge_plus: 4,
    judge_minus: 3,
    judge_parity: 1,
    judge_compare: 3,
}
"""How often each kind of statement in text is drawn."""


def judge_in_text(true: bool, rng: random.Random) -> Judged:
    return rng.choices(list(IN_TEXT), weights=list(IN_TEXT.values()))[0](true, rng)


def _broken(text: str, rng: random.Random) -> str:
    """The statement with a word lost, doubled or out of place, so that it can no longer be read."""
    while True:
        words = text.split(" ")
        at = rng.randrange(len(words))
        how = rng.choice(["lose", "double", "replace", "insert"])
        other = rng.choice(
            ["is", "plus", "digit", "at", "gives", "top", "=", "and", str(rng.randint(0, 9))]
        )
        words[at : at + 1] = {
            "lose": [],
            "double": [words[at], words[at]],
            "replace": [other],
            "insert": [words[at], other],
        }[how]
        if words and read_step(" ".join(words)) is None:
            return " ".join(words)


def _step(scene: Scene | None, text_share: float, rng: random.Random) -> Judged:
    true = rng.random() >= FALSE_SHARE
    if scene is None or rng.random() < text_share:
        step = judge_in_text(true, rng)
    else:
        step = judge_reading(scene, true, rng)
    if true or rng.random() >= BROKEN_SHARE:
        return step
    whole = judge_in_text(True, rng) if scene is None else judge_reading(scene, True, rng)
    return Judged(_broken(whole.text, rng), False)


def judge_picture(pool: tuple[int, ...], rng: random.Random, n: int = 4) -> Judging:
    """n steps, most of them readings of one picture."""
    scene = draw_scene(ROW if rng.random() < ROW_SHARE else GRID, pool, rng)
    steps = tuple(_step(scene, 0.3, rng) for _ in range(n))
    cells = rng.sample(scene.cells, rng.randint(1, len(scene.cells)))
    prompt = rng.choice([PROMPT, f"Read the {', '.join(cells)} digits."])
    return Judging(prompt, steps, scene)


def judge_text(rng: random.Random, n: int = 4) -> Judging:
    """n statements in text alone."""
    prompt = rng.choice([PROMPT, text_alone(rng).prompt])
    return Judging(prompt, tuple(_step(None, 1.0, rng) for _ in range(n)))
