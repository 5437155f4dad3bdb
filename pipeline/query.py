"""One question of a data set: the record that every stage works on.

What identifies a query downstream is its *content hash*: question, choices and the hashes of its
images, nothing else. The gold answer is left out on purpose (a corrected answer re-grades old
rollouts, it does not throw them away), and so are id, source and split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from pipeline.hashing import canonical_json, sha256_hex

AnswerType = Literal["number", "expression", "letter", "word", "yes_no", "list"]
ANSWER_TYPES: tuple[AnswerType, ...] = get_args(AnswerType)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Query:
    """A question about zero or more images.

    query_id: the user's name for it, unique in the data set; for people, never a key.
    images: sha256 (64 hex digits) of each image file's bytes, in prompt order.
    question: text without choices, without image placeholders.
    choices: texts of a multiple-choice question, without their letters; None when free-form.
    answer: the gold answer; a letter "A".."Z" when `choices` is there; None only if unlabelled.
    answer_type: which rule grades it.
    unlabelled: the loop must treat the answer as hidden, whether or not one is known.
    source: where it comes from, for tables ("digits/sum").
    split: "train", "validation", "test" or the name of a further test set ("ood").
    """

    query_id: str
    images: tuple[str, ...]
    question: str
    choices: tuple[str, ...] | None
    answer: str | None
    answer_type: AnswerType
    unlabelled: bool = False
    source: str = "user"
    split: str = "train"

    @cached_property
    def content_hash(self) -> str:
        """sha256 (64 hex digits) of the canonical JSON of question, choices and image hashes."""
        content = {"question": self.question, "choices": self.choices, "images": self.images}
        return sha256_hex(canonical_json(content))
