"""The process checker of `digits`: is each step true of the image, does it follow from the others?

For measurement, and for the oracle arm of an ablation (`select.by=checker`). A step is

* readable when all of its text is understood (`statements`),
* true     when every reading in it matches the picture and every derivation in it is right,
* grounded when every operand in it was stated before, or stands in the question's choices.

A response is process-true when every step is all three, every cell the question needs was read,
and the answer is what its last statement settles.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.responses import extract_answer, split_steps
from pipeline.tasks.digits.families import LETTERS, RELATIONS, Question
from pipeline.tasks.digits.scenes import Scene
from pipeline.tasks.digits.statements import Statement, read_step


@dataclass(frozen=True)
class StepVerdict:
    """The verdict on one step; it holds when all three are true."""

    text: str
    readable: bool
    true: bool
    grounded: bool

    @property
    def holds(self) -> bool:
        return self.readable and self.true and self.grounded


@dataclass(frozen=True)
class Verdict:
    """Verdicts on every step, and whether the steps settle the answer that was given."""

    steps_S: tuple[StepVerdict, ...]
    settles: bool

    @property
    def process_true(self) -> bool:
        return self.settles and all(step.holds for step in self.steps_S)

    @property
    def first_false(self) -> int | None:
        """Index of the first step that does not hold, or None."""
        return next((i for i, step in enumerate(self.steps_S) if not step.holds), None)


@dataclass
class _Known:
    """What the response has stated so far."""

    readings: dict[str, int] = field(default_factory=dict)
    values: set[int] = field(default_factory=set)
    last: Statement | None = None

    def add(self, statement: Statement) -> None:
        if statement.kind == "option":
            return
        if statement.kind == "reading":
            self.readings[statement.where] = int(statement.claim)
        if statement.claim.isdigit():
            self.values.add(int(statement.claim))
        self.last = statement


@dataclass(frozen=True)
class _Case:
    """What a statement is judged against."""

    known: _Known
    question: Question
    scene: Scene


Judgement = tuple[bool, bool]
"""(true, grounded)."""


def _judge_reading(statement: Statement, case: _Case) -> Judgement:
    if statement.where not in case.scene.cells:
        return False, True
    return case.scene.digit(statement.where) == int(statement.claim), True


def _judge_arithmetic(statement: Statement, case: _Case) -> Judgement:
    a, b = statement.operands
    results = {"plus": a + b, "minus": a - b, "times": a * b, "number": 10 * a + b}
    result = results[statement.kind]
    return int(statement.claim) == result, {a, b} <= case.known.values


def _judge_extreme(statement: Statement, case: _Case) -> Judgement:
    best = max if statement.kind == "largest" else min
    read = sorted(case.known.readings.values())
    return int(statement.claim) == best(statement.operands), sorted(statement.operands) == read


def _judge_comparison(statement: Statement, case: _Case) -> Judgement:
    a, b = statement.operands
    true = {">": a > b, "<": a < b, "=": a == b}[statement.claim]
    return true, {a, b} <= case.known.values


def _judge_parity(statement: Statement, case: _Case) -> Judgement:
    value = statement.operands[0]
    return statement.claim == ("odd" if value % 2 else "even"), value in case.known.values


def _judge_option(statement: Statement, case: _Case) -> Judgement:
    """An option is right when it names how the two asked digits, as read, compare."""
    choices, index = case.question.choices or (), LETTERS.index(statement.claim)
    read = [case.known.readings.get(cell) for cell in case.question.needs]
    if index >= len(choices) or None in read or case.known.last is None:
        return False, False
    first, second = (digit for digit in read if digit is not None)
    relation = RELATIONS[0 if first > second else 1 if first < second else 2]
    return choices[index] == relation, case.known.last.kind == "compare"


_JUDGES: dict[str, Callable[[Statement, _Case], Judgement]] = {
    "reading": _judge_reading,
    "plus": _judge_arithmetic,
    "minus": _judge_arithmetic,
    "times": _judge_arithmetic,
    "number": _judge_arithmetic,
    "largest": _judge_extreme,
    "smallest": _judge_extreme,
    "compare": _judge_comparison,
    "parity": _judge_parity,
    "option": _judge_option,
}


def _check_step(text: str, case: _Case) -> StepVerdict:
    statements = read_step(text)
    if statements is None:
        return StepVerdict(text, readable=False, true=False, grounded=False)
    judged = []
    for statement in statements:
        judged.append(_JUDGES[statement.kind](statement, case))
        case.known.add(statement)
    true, grounded = (all(side) for side in zip(*judged, strict=True))
    return StepVerdict(text, True, true, grounded)


def _settles(answer: str, case: _Case) -> bool:
    """Whether the last statement is of a kind that settles the question, and gives `answer`."""
    last, question = case.known.last, case.question
    if last is None or last.kind not in question.settles:
        return False
    if any(cell not in case.known.readings for cell in question.needs):
        return False
    if question.answer_type == "number":
        return last.claim == answer.strip()
    return answer.strip().lower() == question.answer.lower()


def check(response: str, question: Question, scene: Scene) -> Verdict:
    """The verdict on a whole response; one without an answer settles nothing."""
    case = _Case(_Known(), question, scene)
    verdicts = tuple(_check_step(step, case) for step in split_steps(response))
    answer = extract_answer(response)
    return Verdict(verdicts, answer is not None and _settles(answer, case))
