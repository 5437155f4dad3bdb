"""The text that a model is asked with, and the check that a warm-up response does not lean on it.

Rendering is a pure function of the query: what a policy was asked can be made again from the
record alone. Images come first in a prompt, in the order of the record, and the text after them
holds no placeholder of its own.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol

from pipeline.errors import BadConfig, BadData
from pipeline.hashing import canonical_json, sha256_hex
from pipeline.query import LETTERS, Query
from pipeline.responses import split_steps

# Short on purpose: a tiny model pays for every token of it, thousands of times.
WARMUP_TEMPLATE = "{question}\nThe answer is {gold}. Explain step by step."
QUESTION_TEMPLATE = "{question}"
# The date that Llama 3.2's chat template falls back to where it has no clock.
TEMPLATE_TIME = datetime(2024, 7, 26)
# The name under which transformers gives chat templates the clock.
_CLOCK = "strftime_now"

PromptKind = Literal["question", "warmup"]
Message = dict[str, Any]


class ProcessorLike(Protocol):
    """The two things used of a Hugging Face processor (or of a tokenizer with a template)."""

    tokenizer: Any

    def apply_chat_template(self, conversation: list[Message], **options: Any) -> Any:
        """Render `conversation` with the model's own chat template."""


@dataclass(frozen=True)
class PromptTemplates:
    """What a model is asked with: a template by kind of prompt, and the text of the system turn.

    question: holds {question}; warmup: holds {question} and {gold}; system: "" is no system turn.
    """

    question: str = QUESTION_TEMPLATE
    warmup: str = WARMUP_TEMPLATE
    system: str = ""

    def text(self, query: Query, kind: PromptKind = "question") -> str:
        """The text of the user's turn. Raises as `warmup_text`."""
        if kind == "warmup":
            return warmup_text(query, self.warmup)
        return self.question.format(question=question_text(query))

    def hash_of(self, texts_Q: Sequence[str]) -> str:
        """What identifies that these texts are asked; the same as ever where there is no system
        turn."""
        asked = [self.system, list(texts_Q)] if self.system else list(texts_Q)
        return sha256_hex(canonical_json(asked))


def question_text(query: Query) -> str:
    """The question, and its choices as "(A) …", one a line."""
    lines = [query.question]
    if query.choices is not None:
        pairs = zip(LETTERS, query.choices, strict=False)
        lines += [f"({letter}) {choice}" for letter, choice in pairs]
    return "\n".join(lines)


def warmup_text(query: Query, template: str = WARMUP_TEMPLATE) -> str:
    """The question with its gold answer and the instruction to explain it.

    Raises:
        ValueError: for a query without an answer, or one whose answer counts as hidden.
    """
    if query.answer is None or query.unlabelled:
        raise ValueError(f"{query.query_id}: warm-up needs a labelled query")
    return template.format(question=question_text(query), gold=query.answer)


def check_templates(templates: PromptTemplates) -> None:
    """Refuse templates that cannot be filled in or leave a part out.

    Raises:
        BadConfig: naming the setting, and the field that is missing or unknown.
    """
    _check_template("prompt.question", templates.question, ("question",))
    _check_template("prompt.warmup", templates.warmup, ("question", "gold"))


def _check_template(key: str, template: str, wanted: tuple[str, ...]) -> None:
    what = f"{key} = {template!r}"
    may_hold = "it holds " + " and ".join(f"{{{name}}}" for name in wanted)
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadConfig(f"{what}: {error}; a brace is {{{{") from error
    fields = [name for _, name, _, _ in parts if name is not None]
    for name in fields:
        if name not in wanted:
            raise BadConfig(f"{what}: unknown field {{{name}}}; {may_hold}")
    for name in wanted:
        if name not in fields:
            raise BadConfig(f"{what}: {{{name}}} is missing")
    if any(form or conversion for _, _, form, conversion in parts):
        raise BadConfig(f"{what}: a field takes no format; {may_hold}")


def messages(text: str, n_images: int, system: str = "") -> list[Message]:
    """The system turn, if there is one, and a user turn: `n_images` placeholders, then the text."""
    content: list[Message] = [{"type": "image"} for _ in range(n_images)]
    content.append({"type": "text", "text": text})
    turns: list[Message] = [{"role": "user", "content": content}]
    if system:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    return turns


def reserved_in(text: str, processor: ProcessorLike) -> str | None:
    """The first special token of this model that `text` would smuggle into the prompt, or None."""
    added = processor.tokenizer.added_tokens_decoder.values()
    found = [token.content for token in added if token.special and token.content in text]
    return min(found, key=text.index) if found else None


def render_prompt(
    processor: ProcessorLike,
    text: str,
    n_images: int,
    system: str = "",
    *,
    now: datetime = TEMPLATE_TIME,
) -> str:
    """The chat-templated prompt, image placeholders not expanded, ready for the response.

    now: what a template that writes the date or time is given for it. A prompt has one text however
    long a run takes: its hash ties what was sampled to what is trained on.

    Raises:
        BadData: when the text holds one of the model's own special tokens, an image placeholder
            above all: the prompt would then ask for an image that is not there.
    """
    for part in (system, text):
        reserved = reserved_in(part, processor)
        if reserved is not None:
            raise BadData(
                f"the text holds {reserved!r}, a special token of this model: {part[:200]!r}"
            )
    template = str(getattr(processor, "chat_template", ""))
    clock = {_CLOCK: now.strftime} if _CLOCK in template else {}
    prompt = processor.apply_chat_template(
        messages(text, n_images, system), add_generation_prompt=True, tokenize=False, **clock
    )
    if not isinstance(prompt, str):
        raise TypeError(f"the chat template gave {type(prompt).__name__}, not text")
    return prompt


# What speaks of the answer as of something that was handed over. "Answer choices" are no answer.
_KIND = r"(?:correct |right |final |true |known |actual ){0,3}"
_ANSWER = rf"{_KIND}answer(?! (?:choice|option)s?\b)"
_RESULT = rf"(?:{_ANSWER}|{_KIND}(?:solution|result))"
_HANDED = (
    r"(?:given|provided|stated|supplied|expected|known|told|specified|indicated|"
    r"gold|reference|target|official)"
)
_PICTURE = r"(?:the|this) (?:image|picture|figure|diagram|graph|chart|table|caption)"
_TASK = rf"(?:{_PICTURE}|(?:the|this) (?:question|problem|text))"
_REFERENCES = (
    # "the given answer", "the provided correct answer"
    rf"\b{_HANDED} {_RESULT}\b",
    # "the answer is given", "the answer provided", "the answer you gave"; but not "the result is
    # given by 3 + 4", nor "the answer is stated in the figure"
    rf"\b{_RESULT} (?:(?:is|was|has been|being|we were|that was|which is|already) ){{0,4}}"
    rf"{_HANDED}\b(?! by\b| (?:in|on) {_PICTURE})",
    rf"\b{_RESULT} (?:that )?you (?:gave|have given|provided|told|stated)\b",
    # "as given", "as already told"; but not "as given in the figure"
    rf"\bas (?:was |is |already )?(?:given|provided|told|supplied)\b(?! (?:in|by|on) {_TASK})",
    # "we are told"; but not "we are told in the question"
    r"\b(?:we|i)(?: are| were| am| was| have been|'re|'m|'ve been) (?:already )?told\b"
    rf"(?! (?:in|by) {_TASK})",
    # "given that the answer", "we know the answer", "assuming the answer"
    r"\b(?:given|told|know|knowing|known|assume|assuming) (?:that |us )?"
    rf"(?:the |this |our |its )?{_ANSWER}\b",
    # "since the answer is"; but not "we take 7 as the answer"
    rf"\b(?:since|because|as) (?:the|our) {_ANSWER} (?:is|was|must|should|has to)\b",
    # "according to the answer", "this matches the answer", "backwards from the answer"
    r"\b(?:according to|consistent with|in line with|agrees? with|match(?:es|ing)?|"
    r"confirm(?:s|ing)?|based on|from|justif(?:y|ies|ying)) "
    rf"the {_ANSWER}\b",
    r"\bground[- ]truth\b",
    r"\banswer key\b",
)
_REFERS = re.compile("|".join(_REFERENCES), re.IGNORECASE)


def refers_to_gold(text: str) -> bool:
    """Does this response speak of its answer as one that was given to it?

    Warm-up samples responses from a prompt that holds the gold answer, then trains on them under a
    prompt that does not (paper section 7, trap 3). A response that says "the given answer" or "we
    are told that the answer is 7" would teach the policy to claim a hint that it will never have.
    Such a response is *rejected whole*, not edited: training is on the token ids that were sampled,
    and a text with a phrase cut out has no sampled ids. Losing an honest response ("we are told
    that the shop is closed") costs one sample; a leaning one that is kept is learned. So the test
    errs towards true, and spares what honest chains say often: that something is given in the
    figure or by a formula, and the choices of the question. English only.
    """
    return _REFERS.search(" ".join(text.split()).replace("’", "'")) is not None


# Besides: what speaks of the prompt, of an option that was handed over, or explains a known answer.
_OUTCOME = rf"{_KIND}(?:answer|option|choice|result|solution)"
_SOURCE = r"(?:statement|question|problem|text|user|hint|instructions?)"
_LEAKS = (
    r"\bthe prompt\b",
    r"\byou(?:'ve| have)? (?:said|told|gave|given|stated|provided|mentioned)\b",
    # "the statement says that the answer is 7"
    rf"\b{_SOURCE} (?:says?|states?|tells?|gives?|mentions?|claims?) (?:us |me )?(?:that )?"
    rf"(?:the |our |its )?{_OUTCOME}\b",
    # "the given option", "the option given"; but not "the given options"
    rf"\b{_HANDED} {_KIND}(?:answer )?(?:option|choice)\b",
    rf"\b(?:option|choice) (?:that )?(?:(?:is|was|has been|you) ){{0,2}}(?:{_HANDED}|gave)\b",
    rf"\b(?:since|because|as) (?:the|our) {_OUTCOME} (?:is|was|must|should|has to)\b",
    # "as stated, the answer is B"
    r"\bas (?:stated|mentioned|said|indicated|specified|noted)(?: above| before| earlier)?,? "
    rf"(?:that )?(?:the |our )?{_OUTCOME}\b",
    r"\bwork(?:s|ed|ing)? backwards?\b",
    # "let us verify that the answer is 7", "this is why the answer is 7"
    rf"\b(?:that|why|how) (?:the |our |this )?{_OUTCOME} (?:is|was|must|should|has to|comes)\b"
    r"(?! (?:the|a|an|one|not|between|at|the same)\b)",
)
_LEAKING = re.compile("|".join(_LEAKS), re.IGNORECASE)
_OPENING = 30
"""Characters before a stated answer in which nothing can have been derived."""


def leaks_gold(text: str, answer: str) -> bool:
    """Does this warm-up response show that it knew its answer before it reasoned?

    Besides what `refers_to_gold` finds: a response that speaks of the prompt or of an option it was
    given, and one whose first step states the answer, which would teach the policy to guess first
    and explain afterwards.

    Args:
        answer: what the response itself gives as its answer, graded correct.
    """
    plain = " ".join(text.split()).replace("’", "'")
    return (
        refers_to_gold(text)
        or _LEAKING.search(plain) is not None
        or _states_answer_first(text, answer)
    )


def _states_answer_first(text: str, answer: str) -> bool:
    """Whether the first step states the answer: of several steps anywhere in it, of a single one
    at its beginning, before anything is derived."""
    steps = split_steps(text)
    value = answer.strip(" .*()[]{}$")
    if not steps or not value:
        return False
    first = " ".join(steps[0].split())
    if first.strip(" .*()[]{}$").casefold() == value.casefold():
        return True
    stated = re.compile(
        r"\b(?:answer|option|choice|solution)\b(?: here| then|\*\*)?"
        r" ?(?:is|must be|should be|has to be|will be|would be|of|as|=|:|(?=[\d(*$\\]))+"
        rf"[\s*(\[{{$:\\]*(?:boxed\{{)?{re.escape(value)}(?![\w%/]|[.,]\d)",
        re.IGNORECASE,
    )
    found = stated.search(first)
    if found is None:
        return False
    opening = first[: found.start()]
    return len(steps) > 1 or (len(opening) <= _OPENING and not re.search(r"[=\d]", opening))


def prompt_hash(token_ids: Sequence[int]) -> str:
    """What a row says about its prompt: sha256 of the processor's input ids, placeholders
    expanded. Whoever writes rollouts and whoever trains on them must use this one."""
    return sha256_hex(canonical_json([int(token) for token in token_ids]))
