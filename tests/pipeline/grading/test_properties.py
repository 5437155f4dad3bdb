"""What holds for any answer: it never raises, is itself, and is correct both ways or not at all."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.grading import answers
from pipeline.grading.algebra import Failed, identical
from pipeline.grading.arithmetic import Undefined
from pipeline.grading.forms import Expression, Term, Unreadable
from pipeline.grading.grade import Gold, check_gold, judge
from pipeline.grading.reading import read
from pipeline.query import AnswerType
from tests.support.answer_fuzz import KINDS, latex, noise, plain, tree, turned

RANDOMS = st.integers(0, 2**32).map(Random)
TYPES: list[AnswerType] = ["number", "expression", "word", "yes_no", "list"]
PIECES = st.sampled_from(
    r"""
    0 1 2 3.5 .5 1,234 - + * / ^ ^{2} _ _2 _{10} ( ) [ ] { } \{ \} \frac \frac{1}{2}
    \frac12 \sqrt \sqrt{2} \sqrt[3] √ ∛ \sin \sin^{-1} sin ln \log_2 ° ^\circ ^{o} % : :: ,
    ; = < > \le ≠ != x X y i e π \pi \theta Δ ! !! | || \| cm m/s^2 K A 厘米 度 、 ， 。 ：
    答案 故选 A B or and 或 \cup ∩ \in \setminus \infty ∅ \emptyset \pm ± \mp
    \begin{pmatrix} \end{pmatrix} & \\ \\[2pt] \langle ⟨ \left \right \text{ \boxed{
    <answer> </answer> $ ` ** ' " \overline{3} 0.\overline{3} \vec{v} \angle ∠ ABC m\angle
    yes no 是 half tenths million dozen factorial \binom \lfloor \max( gcd( 52_8 3:45 pm ½
    ² ⁻¹ ₁""".split()  # noqa: SIM905
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(PIECES, max_size=14).map("".join),
    st.lists(PIECES, max_size=14).map(" ".join),
)


@settings(max_examples=600)
@given(TEXTS, TEXTS, st.sampled_from(TYPES))
def test_nothing_raises(answer: str, wanted: str, kind: AnswerType) -> None:
    gold = Gold("q", wanted, kind)
    if check_gold(gold) is None:
        assert judge(answer, gold).outcome in ("correct", "wrong", "unparsed")
    usable = Gold("q", {"number": "2\\sqrt{3}", "yes_no": "no"}.get(kind, "x^2, 3"), kind)
    assert judge(answer, usable).outcome in ("correct", "wrong", "unparsed")
    lettered = Gold("q", "B", "letter", ("x^2", "\\frac{1}{2}", "a dog", "(1, 2]"))
    assert judge(answer, lettered).outcome in ("correct", "wrong", "unparsed")


@settings(max_examples=300)
@given(TEXTS, st.sampled_from(TYPES))
def test_an_accepted_gold_answer_equals_itself_however_it_is_set_off(
    wanted: str, kind: AnswerType
) -> None:
    gold = Gold("q", wanted, kind)
    assume(check_gold(gold) is None)
    assert judge(wanted, gold).outcome == "correct"
    assert judge(f" \n{wanted}  ", gold).outcome == "correct"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(RANDOMS)
def test_another_notation_is_correct_and_a_changed_answer_is_not(kind: str, random: Random) -> None:
    fuzzed = KINDS[kind](random)
    gold = Gold("q", fuzzed.gold, fuzzed.type)
    for answer in fuzzed.same:
        assert judge(answer, gold).outcome == "correct", answer
        assert judge(f"${answer}$", gold).outcome == "correct"
        assert judge(answer.replace(" ", "   "), gold).outcome == "correct"
    for answer, change in fuzzed.other:
        assert judge(answer, gold).outcome != "correct", (answer, change)


@settings(max_examples=200)
@given(RANDOMS)
def test_equality_of_expressions_is_symmetric(random: Random) -> None:
    node = tree(random, 3)
    texts = [latex(node), plain(turned(node)), noise(latex(node), random), latex(tree(random, 2))]
    terms = []
    for text in texts:
        try:
            form = read(answers.plain(text))
        except (Unreadable, Undefined):
            continue
        if isinstance(form, Expression) and form.unit is None:
            terms.append(form.term)
    for a in terms:
        for b in terms:
            assert outcome(a, b) == outcome(b, a)


def outcome(a: Term, b: Term) -> bool | None:
    try:
        return identical(a, b)
    except (Undefined, Failed):
        return None


@given(st.integers(-999, 999), st.integers(1, 99), st.sampled_from(["x", "y", "X", "\\alpha"]))
def test_equal_fractions_are_equal_in_expressions(over: int, under: int, name: str) -> None:
    gold = Gold("q", f"\\frac{{{over}{name}}}{{{under}}}", "expression")
    assert judge(f"\\frac{{{2 * over}}}{{{2 * under}}}{name}", gold).outcome == "correct"
    assert judge(f"{over}{name}/{under}", gold).outcome == "correct"
    changed = judge(f"\\frac{{{over + 1}}}{{{under}}}{name}", gold).outcome
    assert changed == "wrong"
