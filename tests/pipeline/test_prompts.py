"""Prompts: what is asked, that nothing in it passes for a control token, and leaning responses."""

from __future__ import annotations

import string
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import BadConfig, BadData
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.prompts import (
    PromptTemplates,
    check_templates,
    leaks_gold,
    messages,
    question_text,
    refers_to_gold,
    render_prompt,
    reserved_in,
    warmup_text,
)
from pipeline.query import LETTERS, Query

FREE = Query("a", (), "What is {x} + 1?", None, "{gold}", "expression")
CHOICE = Query("b", ("0" * 64,), "Which is larger?", ("12", "9"), "A", "letter")


def test_the_text_is_the_question_and_nothing_else() -> None:
    assert question_text(FREE) == "What is {x} + 1?"
    assert question_text(CHOICE) == "Which is larger?\n(A) 12\n(B) 9"


@given(st.lists(st.text(string.printable), min_size=2, max_size=26))
def test_every_choice_has_its_letter(choices: list[str]) -> None:
    text = question_text(Query("a", (), "Q", tuple(choices), "A", "letter"))
    expected = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    assert text == "\n".join(["Q", *expected])


def test_warmup_adds_the_gold_answer_and_braces_in_data_are_text() -> None:
    assert warmup_text(FREE) == ("What is {x} + 1?\nThe answer is {gold}. Explain step by step.")
    assert warmup_text(CHOICE, "{gold}! {question}") == f"A! {question_text(CHOICE)}"


def test_a_hidden_answer_is_never_shown() -> None:
    for answer in (None, "3"):
        hidden = Query("a", (), "Q", None, answer, "number", unlabelled=True)
        with pytest.raises(ValueError, match="labelled"):
            warmup_text(hidden)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{question} because", "{gold} is missing"),
        ("{gold}", "{question} is missing"),
        ("{question} {answer} {gold}", "unknown field {answer}"),
        ("{question} {} {gold}", "unknown field {}"),
        ("{question.answer} {gold}", "unknown field"),
        ("{question} {gold", "a brace is {{"),
        ("{question!z} {gold}", "takes no format"),
        ("{question:d} {gold}", "takes no format"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template: str, message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        check_templates(PromptTemplates(warmup=template))
    assert message in str(caught.value)
    assert "prompt.warmup" in str(caught.value)


def test_a_question_is_in_its_template_and_its_answer_is_not() -> None:
    for template, message in (
        ("Think step by step.", r"prompt\.question.*{question} is missing"),
        ("{question} {gold}", r"unknown field {gold}; it holds {question}"),
    ):
        with pytest.raises(BadConfig, match=message):
            check_templates(PromptTemplates(question=template))


def test_templates_that_can_be_filled() -> None:
    check_templates(PromptTemplates())
    check_templates(PromptTemplates("{{braces}} {question}", "{question} and {gold}, {gold}"))


def test_what_is_asked_is_the_question_in_its_template() -> None:
    templates = PromptTemplates("{question}\nEnd with the answer.", system="You see well.")
    assert templates.text(FREE) == "What is {x} + 1?\nEnd with the answer."
    assert templates.text(FREE, "warmup") == warmup_text(FREE)


def test_a_system_text_and_every_template_are_part_of_what_is_hashed() -> None:
    plain = PromptTemplates()
    hashes = [
        templates.hash_of([templates.text(FREE)])
        for templates in (plain, replace(plain, system="s"), replace(plain, question="{question}!"))
    ]
    assert len(set(hashes)) == 3
    assert hashes[0] == sha256_hex(canonical_json([FREE.question]))


def test_images_come_before_the_text() -> None:
    assert messages("How many?", 2) == [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "image"},
                {"type": "text", "text": "How many?"},
            ],
        }
    ]


@pytest.fixture(scope="module")
def processor() -> Any:
    """A real tokenizer and its template engine; the image half of a processor is not asked."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"?": 0, "How": 1, "many": 2}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<end>", additional_special_tokens=["<image>", "<image>2"]
    )
    tokenizer.add_tokens([AddedToken("twelve", special=False)])
    tokenizer.chat_template = (
        "{% for message in messages %}[{{ message.role }}]{% for part in message.content %}"
        "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end>{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    return SimpleNamespace(tokenizer=tokenizer, apply_chat_template=tokenizer.apply_chat_template)


def test_a_prompt_is_the_models_own_template(processor: Any) -> None:
    assert render_prompt(processor, "How many?", 0) == "[user]How many?<end>[assistant]"
    prompt = render_prompt(processor, "Which {{ x }} of twelve?", 2)
    assert prompt == "[user]<image><image>Which {{ x }} of twelve?<end>[assistant]"


def test_special_tokens_in_the_text_are_refused(processor: Any) -> None:
    assert reserved_in("twelve < image >", processor) is None
    assert reserved_in("a <end> of <image>", processor) == "<end>"
    with pytest.raises(BadData, match="'<image>', a special token of this model"):
        render_prompt(processor, "Look: <image>", 1)


LEANING = [
    "As given, the answer is 12.",
    "The answer is given as 12, so we check it.",
    "We are told that the answer is 7.",
    "We're told the result is 7.",
    "We’re told it is 7.",
    "I was told that it is 7.",
    "We are told that it is 7.",
    "This matches the provided answer.",
    "The given answer is 3.",
    "the  GIVEN\n answer",
    "The correct answer provided is B.",
    "The answer has been provided: 4.",
    "The answer was already given.",
    "Since the answer is 5, the other cell must be 2.",
    "Because the correct answer is 5, we subtract.",
    "Knowing that the answer is 9, we look for 9.",
    "We know the answer is 9.",
    "Given that the answer is 9, the digits are 4 and 5.",
    "Given the final answer 9, the digits are 4 and 5.",
    "According to the answer, the left digit is 3.",
    "It agrees with the expected answer.",
    "It is consistent with the stated result.",
    "The ground truth is 4.",
    "The ground-truth label is 4.",
    "The reference answer is 4.",
    "The answer you gave is 4.",
    "To justify the answer we read the digits.",
    "Working backwards from the answer, we get 2.",
    "This confirms the answer.",
]
HONEST = [
    "The top left digit is 3.\n\nThe top right digit is 4.\n\n3 + 4 = 7.\n\n# Answer\n\n7",
    "So the answer is 7.",
    "The answer is 7 because 3 + 4 = 7.",
    "Therefore, the final answer is (B).",
    "Given that the triangle is right-angled, we use Pythagoras.",
    "The lengths are given in the figure.",
    "As given in the figure, AB = 4.",
    "As given by the table, sales rose.",
    "We are told in the question that he has 5 apples.",
    "The given figure shows a cat.",
    "We know that 3 is larger than 2.",
    "Since the result of the first step is needed later, keep it.",
    "The provided image shows two digits.",
    "The number is stated on the sign.",
    "The answer can be found by adding the digits.",
    "The answer is stated on the chart.",
    "The result is given by 3 + 4.",
    "We take 7 as the answer.",
    "Of the given answer choices, only (B) fits.",
    "7 matches the answer option (B).",
    "From the result of the first step we subtract 2.",
    "As the first digit is 3, the sum is 7.",
    "Both cells are given as digits.",
]


@pytest.mark.parametrize("text", LEANING)
def test_responses_that_lean_on_the_given_answer(text: str) -> None:
    assert refers_to_gold(text)
    assert refers_to_gold(f"The left digit is 3.\n\n{text.upper()}\n\n# Answer\n\n3")


@pytest.mark.parametrize("text", HONEST)
def test_responses_that_stand_on_their_own(text: str) -> None:
    assert not refers_to_gold(text)


LEAKING = [
    ("The answer is 7. Here is why:\n\n3 + 4 = 7", "7"),
    ("To arrive at the answer 7, we add.\n\n3 + 4 = 7", "7"),
    ("Here is why the answer is 7.\n\n3 + 4 = 7", "7"),
    ("The prompt says the answer is 7.\n\n3 + 4 = 7", "7"),
    ("3 + 4 = 7, as the prompt says", "7"),
    ("You said the answer is 7.\n\n3 + 4 = 7", "7"),
    ("The statement says that the answer is 7.\n\n3 + 4 = 7", "7"),
    ("Since the correct option is B, 3 is smaller.", "B"),
    ("The given option B fits.", "B"),
    ("We check the option given.\n\n3 + 4 = 7", "B"),
    ("3 is smaller.\n\nAs stated, the answer is B.", "B"),
    ("Working backwards from 7, the other is 4.", "7"),
    ("Let's verify that the answer is 7.\n\n3 + 4 = 7", "7"),
    ("**Answer: 7**\n\n3 + 4 = 7", "7"),
    ("The correct answer is (B) because 9 is less.\n\n9 < 12", "B"),
    ("7\n\n3 + 4 = 7", "7"),
    ("The answer is \\boxed{7}.\n\n3 + 4 = 7", "7"),
    ("So the answer is 7.", "7"),
]
SOUND = [
    ("3 + 4 = 7, so the answer is 7.", "7"),
    ("3 + 4 = 7\n\nSo the answer is 7.", "7"),
    ("The answer is the sum of both digits.\n\n3 + 4 = 7", "7"),
    ("The answer is 70 less than 77.\n\n77 - 70 = 7", "7"),
    ("the first digit is 7\n\n7 - 0 = 7", "7"),
    ("Of the given options, only (B) is smaller.", "B"),
    ("The question asks which option is larger.\n\n12 > 9", "A"),
    ("That the result is the same shows it.\n\n3 + 4 = 7", "7"),
    ("at top left I read 8 and the bottom right digit is 5\n\nfrom 5 to 8 is 3", "3"),
]


@pytest.mark.parametrize(("text", "answer"), LEAKING)
def test_chains_that_knew_their_answer(text: str, answer: str) -> None:
    assert leaks_gold(f"{text}\n\n# Answer\n\n{answer}", answer)


@pytest.mark.parametrize(("text", "answer"), SOUND + [(text, "none of it") for text in HONEST])
def test_chains_that_found_their_answer(text: str, answer: str) -> None:
    assert not leaks_gold(f"{text}\n\n# Answer\n\n{answer}", answer)


@pytest.mark.parametrize("text", LEANING)
def test_what_leans_leaks(text: str) -> None:
    assert leaks_gold(text, "none of it")
