"""Image placeholders and control tokens in a question's text, and where such a mark is plain text.

The prompt puts images where they belong by itself; a placeholder in the text would ask for an image
too many, and a control token would end the user's turn. A mark is text only where the row says so:
in backticks, beside the word "tag" or "element", or in a question about HTML without images. The
last word has the policy's own tokenizer: its special tokens are refused wherever they stand.
"""

from __future__ import annotations

import re

# Of the usual model families.
_RESERVED = re.compile(
    r"<\|[^|<>\s]{1,40}\|>"
    r"|</?(?:image|img|video|audio|vision)(?:[ _-]?\w{1,20})?\s*/?>"
    r"|<(?:fake_token_around_image|global-img|row_\d+_col_\d+|end_of_utterance|IMG_CONTEXT)>"
    r"|<(?:start|end)_of_(?:image|turn)>"
    r"|\[/?IMG(?:_[A-Z]+)?\]",
    re.IGNORECASE,
)
_HTML_MARK = re.compile(r"</?(?:image|img|video|audio)\s*/?>", re.IGNORECASE)
_HTML = re.compile(r"\b(?:X?HTML5?|SVG|XML|web ?pages?|tags?)\b", re.IGNORECASE)
# Not "element" before it: chemistry asks for "the element <image>".
_TAG_BEFORE = re.compile(r"\btags?\s*$", re.IGNORECASE)
_TAG_AFTER = re.compile(r"^\s*(?:tags?|elements?)\b", re.IGNORECASE)
# A mark on a line of its own stands where a picture would.
_LINE_BEFORE = re.compile(r"(?:^|\n)\s*$")
# As MMMU numbers the pictures that it has for choices.
_NUMBERED = re.compile(r"\s*<image ?\d+>\s*", re.IGNORECASE)


def asks_about_html(question: str, n_images: int) -> bool:
    """Whether HTML's own marks are text in this row: no image, and a question about HTML."""
    return n_images == 0 and _HTML.search(question) is not None


def placeholder_in(text: str, *, html: bool = False) -> str | None:
    """The first placeholder or control token of `text`, or None. html: `asks_about_html`."""
    for match in _RESERVED.finditer(text):
        if not _is_text(match, html):
            return match[0]
    return None


def _is_text(match: re.Match[str], html: bool) -> bool:
    before, after = match.string[: match.start()], match.string[match.end() :]
    if before.count("`") % 2 == 1 and "`" in after:
        return True
    if _HTML_MARK.fullmatch(match[0]) is None:
        return False
    if html and not (_LINE_BEFORE.search(before) and after.startswith("\n")):
        return True
    return bool(_TAG_BEFORE.search(before) or _TAG_AFTER.match(after))


def is_picture(choice: str) -> bool:
    """Whether a choice is nothing but the placeholder of a picture."""
    return _NUMBERED.fullmatch(choice) is not None
