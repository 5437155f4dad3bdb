"""Answers in the shapes that models give before they are trained on ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer_shapes import OURS, SHAPES, StatedAnswer, stated_answer
from pipeline.responses import extract_answer, finished_steps, split_steps, step_ends

OUR_OWN = "A step.\n\n# Answer\n\n7"


@pytest.mark.parametrize(
    ("text", "answer", "shape"),
    [
        (OUR_OWN, "7", OURS),
        ("<think>\n# Answer\n\n9\n</think>\n" + OUR_OWN, "7", OURS),
        # a heading of any level, bold or not, the answer below it or on its line
        ("A step.\n\n## Answer\n\n7", "7", "heading"),
        ("A step.\n\n### Final Answer:\n7", "7", "heading"),
        ("A step.\n\n# Answer: 7", "7", "heading"),
        ("A step.\n\n**Final Answer**\n\n7", "7", "heading"),
        ("A step.\n\n**Answer:** 7", "7", "heading"),
        ("A step.\n\n**The final answer**:\n\n7", "7", "heading"),
        ("## 答案：\n\n7", "7", "heading"),
        ("A step.\n\n## Answer\n\n7\n\n## Answer\n\n8", None, None),
        ("A step.\n\n## Answer\n\n7\n\nor rather 8", None, None),
        ("A step.\n\n## Answer\n\n", None, None),
        # tags
        ("A step. <answer> 7 </answer>", "7", "tag"),
        ("<answer>7</answer> and again <answer>7</answer>", "7", "tag"),
        ("<answer>7</answer> or <answer>8</answer>", None, None),
        ("<answer></answer>", None, None),
        # boxes
        (r"So it is \boxed{7}.", "7", "boxed"),
        (r"$$\boxed{\frac{1}{2}}$$", r"\frac{1}{2}", "boxed"),
        (r"\boxed{7}, that is \boxed{7}", "7", "boxed"),
        (r"\boxed{7} or \boxed{8}", None, None),
        (r"\boxed{7", None, None),
        (r"The answer is \boxed{7}.", "7", "boxed"),
        # a label
        ("A step.\nAnswer: 7", "7", "label"),
        ("A step.\n**Answer**: 7 cm", "7 cm", "heading"),
        ("Final answer: (B)\n", "(B)", "label"),
        ("答案：12", "12", "label"),
        ("Answer: 7\nAnswer: 8", None, None),
        # a sentence, at the end only
        ("A step.\n\nThe answer is 7.", "7", "sentence"),
        ("So 3 + 4 = 7. The final answer is 7.", "7", "sentence"),
        ("Therefore, the correct option is (B).", "(B)", "sentence"),
        ("因此答案是12。", "12", "sentence"),
        ("The answer is 7.\nBut let us check that.", None, None),
        # nothing
        ("", None, None),
        ("7", None, None),
        ("An answer: none of these", None, None),
        (r"<think>\boxed{7}</think> I do not know.", None, None),
        (r"<think>\boxed{7}", None, None),
    ],
)
def test_where_a_response_states_its_answer(
    text: str, answer: str | None, shape: str | None
) -> None:
    stated = stated_answer(text, SHAPES)
    assert (stated and stated.text, stated and stated.shape) == (answer, shape)


def test_only_the_shapes_that_are_named_are_read() -> None:
    text = r"Answer: 7 because \boxed{8}"
    assert stated_answer(text) is None
    assert stated_answer(text, ["boxed"]) == StatedAnswer("8", "boxed")
    assert stated_answer(text, ["label"]) == StatedAnswer(r"7 because \boxed{8}", "label")


def test_our_heading_twice_is_not_read_in_another_shape() -> None:
    text = OUR_OWN + "\n\n# Answer\n\n8\n\nThe answer is 7."
    assert stated_answer(text, ["sentence", "boxed", "tag", "label"]) is None


PARTS = st.sampled_from(
    ["# Answer", "## Answer", "7", "<answer>", "</answer>", r"\boxed{", "}", "Answer: 7", "\n\n",
     "\n", "The answer is 7.", "<think>", "</think>", "**", " ", "答案是", "a step"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=14).map("".join))
def test_ours_comes_first_and_nothing_empty_is_an_answer(text: str) -> None:
    stated = stated_answer(text, SHAPES)
    ours = extract_answer(text)
    if ours is not None:
        assert stated == StatedAnswer(ours, OURS)
    elif stated is not None:
        assert stated.text.strip() == stated.text != ""
        assert stated.shape in SHAPES


def decode(ids: object) -> str:
    return "".join(map(chr, ids))  # type: ignore[call-overload]


@pytest.mark.parametrize("thought", ["<think>First.\n\nThen.</think>", "First.\n\nThen.</think>"])
def test_what_was_thought_is_no_step(thought: str) -> None:
    text = thought + "\n\n" + OUR_OWN
    assert split_steps(text) == ["A step."]
    assert finished_steps(text) == 1
    (end,) = step_ends([ord(letter) for letter in text], decode)
    assert text[:end].endswith("A step.\n\n")


def test_thinking_without_an_end_has_neither_steps_nor_an_answer() -> None:
    text = "<think>First.\n\nThen.\n\n# Answer\n\n7"
    assert (split_steps(text), extract_answer(text)) == ([], None)
    assert step_ends([ord(letter) for letter in text], decode) == []
