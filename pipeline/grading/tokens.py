"""The signs of a mathematical text: LaTeX, Unicode and plain notation become the same tokens.

What always holds: every character of the text is in a token or is space; a text with a word in it
that is no name of mathematics is `Unreadable`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pipeline.grading.arithmetic import FUNCTIONS
from pipeline.grading.forms import Unreadable
from pipeline.grading.quantities import REPEATING, VULGAR, repeating, slashed

Kind = Literal["number", "symbol", "constant", "function", "command", "sign", "end"]


@dataclass(frozen=True)
class Token:
    """text: of a sign the sign, in one spelling ("<=", "*"); of a command its name without the
    backslash. spaced: space stands before it."""

    kind: Kind
    text: str
    spaced: bool = False

    def __str__(self) -> str:
        return self.text


END = Token("end", "")

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "iota": "ι", "kappa": "κ", "lambda": "λ", "mu": "μ", "nu": "ν", "xi": "ξ",
    "rho": "ρ", "sigma": "σ", "tau": "τ", "upsilon": "υ", "phi": "φ", "chi": "χ", "psi": "ψ",
    "omega": "ω", "Gamma": "Γ", "Delta": "Δ", "Theta": "Θ", "Lambda": "Λ", "Xi": "Ξ", "Pi": "Π",
    "Sigma": "Σ", "Upsilon": "Υ", "Phi": "Φ", "Psi": "Ψ", "Omega": "Ω",
    "varepsilon": "ε", "vartheta": "θ", "varphi": "φ", "varrho": "ρ", "varsigma": "σ",
    "ell": "ℓ", "hbar": "ħ", "N": "ℕ", "Z": "ℤ", "Q": "ℚ", "R": "ℝ", "C": "ℂ",
}  # fmt: skip
_LETTERS = frozenset(_GREEK.values()) | {"ϕ", "ϵ", "ϑ", "µ", "△"}
_SAME_LETTER = {"ϕ": "φ", "ϵ": "ε", "ϑ": "θ", "µ": "μ"}

_SIGNS = {
    "cdot": "*", "times": "×", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "le": "<=",
    "leq": "<=", "leqslant": "<=", "ge": ">=", "geq": ">=", "geqslant": ">=", "ne": "!=",
    "neq": "!=", "lt": "<", "gt": ">", "cup": "∪", "cap": "∩", "setminus": "∖", "backslash": "∖",
    "in": "∈", "emptyset": "∅", "varnothing": "∅", "mid": "|", "vert": "|", "lvert": "|",
    "rvert": "|", "langle": "⟨", "rangle": "⟩", "lfloor": "⌊", "rfloor": "⌋", "lceil": "⌈",
    "rceil": "⌉", "{": "\\{", "}": "\\}", "lbrace": "\\{", "rbrace": "\\}", "colon": ":",
    "prime": "'", "approx": "≈", "lbrack": "[", "rbrack": "]", "\\": "\\\\", "equiv": "≡",
}  # fmt: skip
_CHARACTERS = {
    "·": "*", "⋅": "*", "∗": "*", "•": "*", "÷": "/", "≤": "<=", "⩽": "<=", "≦": "<=",
    "≥": ">=", "⩾": ">=", "≧": ">=", "≠": "!=", "∣": "|", "〈": "⟨", "〉": "⟩", "′": "'",
    "Ø": "∅", "\\{": "\\{",
}  # fmt: skip
_LONG = {"**": "^", "<=": "<=", ">=": ">=", "!=": "!=", "==": "="}
_PLAIN = frozenset("+-*×/^_()[]{}|,:;<>=!'&°±∓∪∩∖∈∅⟨⟩⌊⌋⌈⌉≈%")
_CONSTANTS = {"π": "π", "∞": "∞", "pi": "π", "infty": "∞", "infinity": "∞"}
_COMMANDS = frozenset(
    ["frac", "sqrt", "log", "lg", "mathbb", "overline", "bar", "vec", "hat", "tilde", "dot",
     "overrightarrow", "widehat"]
)  # fmt: skip
_ROOTS = {"√": 2, "∛": 3, "∜": 4}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ", "0123456789-+nx")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")

_TOKEN = re.compile(
    r"(?P<space>\s+)"
    r"|\\(?P<environment>(?:begin|end)\s*\{[A-Za-z]+\}(?:\s*\{[clr|\s]+\})?)"
    r"|_\s*\{\s*(?P<label>[A-Za-z]{2,16})\s*\}"
    r"|(?P<grouped>\d{1,3}(?:,\d{3})+(?![\d,])(?:\.\d+)?)"
    rf"|(?P<repeating>{REPEATING.pattern})"
    r"|(?P<number>\d+(?:\.\d*)?|\.\d+)"
    r"|\\(?P<command>[A-Za-z]+|[{}\\|%])"
    r"|(?P<letters>[A-Za-z]+)"
    r"|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹ⁿˣ]+)"
    r"|(?P<lowered>[₀₁₂₃₄₅₆₇₈₉ₙ]+)"
    r"|(?P<long>\*\*|<=|>=|!=|==)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_KINDS = ("space", "environment", "label", "grouped", "repeating", "number", "command", "letters",
          "raised", "lowered", "long", "other")  # fmt: skip
# Longest first. Some are a function only before a bracket: "max" may be m, a and x.
_WORDS = re.compile(
    r"arcsin|arccos|arctan|arccot|infinity|asin|acos|atan|sinh|cosh|tanh|sqrt|cbrt|sin|cos|tan|cot"
    r"|sec|csc|log|ln|lg|pi"
    r"|(?:floor|ceil|abs|max|min|gcd|lcm|exp)(?=\s*\()"
)
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
# So many letters in a row that are no name are a word, not a product.
_PROSE = 4


def tokens(text: str) -> list[Token]:
    """The tokens of a plain text, and an end.

    Raises:
        Unreadable: at a sign that is none of mathematics, or at a word.
    """
    found: list[Token] = []
    depth, spaced = 0, False
    for match in _TOKEN.finditer(text):
        kind = next(kind for kind in _KINDS if match[kind] is not None)
        piece = match[kind]
        if kind == "space":
            spaced = True
            continue
        if kind == "grouped" and depth:  # in brackets the commas separate
            new = [t for part in piece.split(",") for t in (_sign(","), Token("number", part))][1:]
        else:
            new = _read(kind, piece, text[match.end() :])
        if new:
            new[0] = Token(new[0].kind, new[0].text, spaced)
        spaced = False
        for token in new:
            depth += {"(": 1, "[": 1, "\\{": 1, ")": -1, "]": -1, "\\}": -1}.get(token.text, 0)
        found += new
    return [*found, END]


def _sign(text: str) -> Token:
    return Token("sign", text)


def _read(kind: str, piece: str, rest: str) -> list[Token]:
    match kind:
        case "repeating":
            found = REPEATING.fullmatch(piece)
            assert found is not None  # the token's pattern holds it
            new = [Token("number", str(repeating(found)))]
        case "number" | "grouped":
            new = [Token("number", piece.replace(",", ""))]
        case "environment":  # "begin pmatrix", "end array"
            new = [Token("command", " ".join(re.findall(r"[A-Za-z]+", piece)[:2]))]
        case "label":
            new = [_sign("_"), Token("symbol", piece)]
        case "command":
            new = _command(piece)
        case "letters":
            new = _letters(piece, rest)
        case "raised":
            new = [_sign("^"), _sign("{"), *tokens(piece.translate(_SUPERSCRIPTS))[:-1], _sign("}")]
        case "lowered":
            new = [_sign("_"), _sign("{"), *tokens(piece.translate(_SUBSCRIPTS))[:-1], _sign("}")]
        case "long":
            new = [_sign(_LONG[piece])]
        case _:
            new = _other(piece)
    return new


def _other(piece: str) -> list[Token]:
    if piece in _LETTERS:
        return [Token("symbol", _SAME_LETTER.get(piece, piece))]
    if piece in _CONSTANTS:
        return [Token("constant", _CONSTANTS[piece])]
    if piece in _ROOTS:
        return [Token("command", "sqrt" if piece == "√" else f"root{_ROOTS[piece]}")]
    if VULGAR.match(piece):
        return [Token("number", slashed(piece))]
    if piece in _PLAIN or piece in _CHARACTERS:
        return [_sign(_CHARACTERS.get(piece, piece))]
    if piece in "ℝℕℤℚℂ":
        return [Token("symbol", piece)]
    raise Unreadable(piece)


def _command(name: str) -> list[Token]:
    if name in _SIGNS:
        return [_sign(_SIGNS[name])]
    if name in _CONSTANTS:
        return [Token("constant", _CONSTANTS[name])]
    if name in _GREEK:
        return [Token("symbol", _GREEK[name])]
    if name in ("binom", "tbinom", "dbinom"):
        return [Token("command", "binom")]
    if name in FUNCTIONS:
        return [Token("function", name)]
    if name in _COMMANDS:
        return [Token("command", name)]
    raise Unreadable(name)


def _letters(run: str, rest: str) -> list[Token]:
    """Names of functions in a run of letters, and the letters between them as symbols."""
    found: list[Token] = []
    place = single = 0
    text = run + rest[:8]
    while place < len(run):
        word = _WORDS.match(text, place)
        if word is not None and word.end() <= len(run):
            found.append(_word(word[0]))
            place, single = word.end(), 0
            continue
        letter = run[place]
        found.append(Token("constant" if letter in "ei" else "symbol", letter))
        place, single = place + 1, single + 1
        if single == _PROSE:
            raise Unreadable(run)
    return found


def _word(word: str) -> Token:
    if word in _CONSTANTS:
        return Token("constant", _CONSTANTS[word])
    if word in ("sqrt", "log", "lg"):
        return Token("command", word)
    if word == "cbrt":
        return Token("command", "root3")
    return Token("function", _ALIASES.get(word, word))
