"""The grammar of a mathematical statement: one recursive descent from tokens to a form.

    statement  := union (relation union)*                  x = 5,  2 ≤ x < 5,  x ∈ [2, 5)
    union      := ratio (("∪" | "∩" | "∖") ratio)*
    ratio      := sum (":" sum)*
    sum        := sign? product (("+" | "-" | "±" | "∓") product)*
    product    := factor (("*" | "×" | "/")? factor)*      2xy, 3/4 x; "1/xy" is read in no way
    factor     := atom ("!" | "°" | "'")* ("^" exponent)?
    atom       := number | symbol | function | bracket | bars | fraction | root | matrix | set

What always holds: all of the text is read, or it is `Unreadable`; what mathematicians would read in
two ways (1/xy, sin π/3, x2) is; nesting is bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

from pipeline.grading import regions
from pipeline.grading.arithmetic import FUNCTIONS
from pipeline.grading.forms import (
    REALS,
    Apply,
    Constant,
    Expression,
    Form,
    Matrix,
    Number,
    Ratio,
    Sequence,
    Symbol,
    Term,
    Unreadable,
    holds,
    terms_of,
)
from pipeline.grading.parts import (
    Part,
    appended,
    as_form,
    as_term,
    expression,
    has_double_sign,
    in_degrees,
    is_vector,
    number,
    proper,
    related,
    sequence,
)
from pipeline.grading.tokens import END, Token, tokens

MAX_DEPTH = 40
_MOST_REPEATED = 4
_RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "∈")
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "⟨": "⟩", "{": "}"}
_MATRICES = ("matrix", "pmatrix", "bmatrix", "smallmatrix", "array")
_ACCENTS = ("overline", "bar", "vec", "hat", "tilde", "dot", "overrightarrow", "widehat")


def read_statement(text: str) -> Form:
    """The form that all of a plain text is.

    Raises:
        Unreadable: when it is none.
    """
    parser = _Parser(tokens(text))
    form = parser.statement()
    if parser.next is not END or any(map(has_double_sign, terms_of(form))):
        raise Unreadable(text)
    return form


class _Parser:
    def __init__(self, stream: list[Token]) -> None:
        self._stream = stream
        self._place = 0
        self._depth = 0
        # Bars that are open: the next one closes.
        self._bars = 0

    # -- tokens ---------------------------------------------------------------------------------

    @property
    def next(self) -> Token:
        return self._stream[self._place]

    def _take(self) -> Token:
        token = self.next
        self._place += token is not END
        return token

    def _at(self, *signs: str) -> bool:
        return self.next.kind == "sign" and self.next.text in signs

    def _accept(self, *signs: str) -> str | None:
        return self._take().text if self._at(*signs) else None

    def _expect(self, *signs: str) -> str:
        sign = self._accept(*signs)
        if sign is None:
            raise Unreadable(f"{' or '.join(signs)} expected, not {self.next.text!r}")
        return sign

    def _at_command(self, *names: str) -> bool:
        return self.next.kind == "command" and self.next.text in names

    # -- statements -----------------------------------------------------------------------------

    def statement(self) -> Form:
        parts: list[Part] = [self._union()]
        ops: list[str] = []
        while self._at(*_RELATIONS):
            ops.append(self._take().text)
            parts.append(self._union())
        if not ops:
            return as_form(parts[0])
        return related(parts, ops)

    def _union(self) -> Part:
        left = self._ratio()
        while (sign := self._accept("∪", "∩", "∖")) is not None:
            operation = {"∪": regions.union, "∩": regions.intersection, "∖": regions.difference}
            left = operation[sign](regions.region(left), regions.region(self._ratio()))
        return left

    def _ratio(self) -> Part:
        parts = [self._sum()]
        while self._accept(":") is not None:
            parts.append(self._sum())
        return parts[0] if len(parts) == 1 else Ratio(tuple(map(as_term, parts)))

    # -- terms ----------------------------------------------------------------------------------

    def _sum(self) -> Part:
        sign = self._accept("+", "-", "±", "∓")
        first = self._product()
        if sign in ("-", "±", "∓"):
            first = Apply("neg" if sign == "-" else sign, (as_term(first),))
        while (sign := self._accept("+", "-", "±", "∓")) is not None:
            left, right = as_term(first), as_term(self._signed_product())
            if sign == "-":
                right = Apply("neg", (right,))
            first = appended("+", left, right) if sign in "+-" else Apply(sign, (left, right))
        return first

    def _signed_product(self) -> Part:
        """What follows a + may have a sign of its own: "x + -3"."""
        if self._accept("-") is not None:
            return Apply("neg", (as_term(self._product()),))
        return self._product()

    def _product(self) -> Part:
        mixed = self._mixed()
        left: Part = mixed if mixed is not None else self._factor()
        # Whether what was divided by last may be followed by a factor: "4/3 π", not "1/x y".
        open_quotient, quotients = False, 0
        while True:
            if (sign := self._accept("*", "×")) is not None:
                right = as_term(self._negative_factor())
                if sign == "×" and is_vector(as_term(left)) and is_vector(right):
                    raise Unreadable("a cross product")
                left = appended("*", as_term(left), right)
                open_quotient = False
            elif self._accept("/") is not None:
                start = self._place
                right = as_term(self._negative_factor())
                whole = isinstance(left, Number) and isinstance(right, Number)
                open_quotient, quotients = not (whole and self._place == start + 1), quotients + 1
                if quotients > _MOST_REPEATED:
                    raise Unreadable("too many quotients")
                left = Apply("/", (as_term(left), right))
            elif self._begins_factor():
                if open_quotient:
                    raise Unreadable("a quotient and a factor after it")
                left = appended("*", as_term(left), as_term(self._factor()))
            else:
                return left

    def _negative_factor(self) -> Part:
        if self._accept("-") is not None:
            return Apply("neg", (as_term(self._factor()),))
        return self._factor()

    def _mixed(self) -> Term | None:
        """A whole number before a fraction of whole numbers: a mixed number, never a product."""
        ahead = [token.text for token in self._stream[self._place : self._place + 4]]
        if self.next.kind != "number" or not ahead[0].isdigit():
            return None
        kinds = [token.kind for token in self._stream[self._place : self._place + 4]]
        whole = Fraction(ahead[0])
        if kinds[1:2] == ["number"] and "/" in ahead[1]:
            self._place += 2
            return Number(whole + Fraction(ahead[1]))
        if kinds[1:4] == ["number", "sign", "number"] and ahead[2] == "/":
            part = proper(ahead[1], ahead[3])
            self._place += 4
            return Number(whole + part)
        if kinds[1:2] == ["command"] and ahead[1] == "frac":
            fraction = self._whole_fraction(self._place + 2)
            if fraction is not None:
                over, under, self._place = fraction
                return Number(whole + proper(over, under))
        return None

    def _whole_fraction(self, place: int) -> tuple[str, str, int] | None:
        """The two whole numbers that \\frac is followed by, and where they end."""
        parts: list[str] = []
        while len(parts) < 2:
            texts = [token.text for token in self._stream[place : place + 3]]
            if texts[0].isdigit() and len(texts[0]) <= 2 - len(parts):  # \\frac12, \\frac1{2}
                parts, place = parts + list(texts[0]), place + 1
            elif len(texts) == 3 and texts[0] == "{" and texts[1].isdigit() and texts[2] == "}":
                parts, place = [*parts, texts[1]], place + 3
            else:
                return None
        return parts[0], parts[1], place

    def _begins_factor(self) -> bool:
        """Whether a factor begins here without a sign. A number does not: "x2", "2 3"."""
        token = self.next
        if token.kind in ("symbol", "constant", "function"):
            return True
        if token.kind == "number":  # "3!5!"
            return self._stream[self._place - 1].text == "!"
        if token.kind == "command":
            return not token.text.startswith("end")
        return self._at("(", "{", "⌊", "⌈") or (self._at("|") and not self._bars)

    def _factor(self) -> Part:
        base, start = self._atom(), self._place
        while self._at("!", "°", "'"):
            sign = self._take().text
            if self._place - start > _MOST_REPEATED:
                raise Unreadable(f"too many {sign}")
            if sign == "'":
                if not isinstance(base, Symbol):
                    raise Unreadable("a prime on what is no symbol")
                base = Symbol(base.name + "'")
            else:
                base = Apply("!" if sign == "!" else "deg", (as_term(base),))
        if self._accept("^") is not None:
            base = Apply("^", (as_term(base), self._exponent()))
        return base

    def _exponent(self) -> Term:
        with self._deeper():
            if self._accept("-") is not None:
                return Apply("neg", (self._exponent(),))
            self._accept("+")
            exponent = self._group() if self._at("{") else as_term(self._atom())
            if self._accept("^") is not None:  # 2^3^2 is 2^(3^2)
                exponent = Apply("^", (exponent, self._exponent()))
            return exponent

    # -- atoms ----------------------------------------------------------------------------------

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        yield
        self._depth -= 1

    def _atom(self) -> Part:
        with self._deeper():
            return self._one_atom()

    def _one_atom(self) -> Part:
        token = self._take()
        if token.kind == "number":
            return number(token.text)
        if token.kind == "constant":
            return Constant(token.text) if not self._at("_") else self._subscripted(token.text)
        if token.kind == "symbol":
            if token.text == "ℝ":
                return REALS
            return self._subscripted(token.text)
        if token.kind == "function":
            return self._function(token.text)
        if token.kind == "command":
            return self._command(token.text)
        if token.kind == "sign" and token.text in _ATOMS:
            return _ATOMS[token.text](self, token.text)
        raise Unreadable(f"{token.text!r} does not begin anything")

    def _subscripted(self, name: str) -> Term:
        if self._accept("_") is None:
            return Symbol(name)
        return Symbol(f"{name}_{self._raw()}")

    def _raw(self) -> str:
        """The text of one token or group, as a name."""
        if self._accept("{") is None:
            token = self._take()
            if token.kind not in ("number", "symbol", "constant"):
                raise Unreadable("a subscript is a name or a number")
            return token.text
        depth, name = 1, ""
        while depth:
            token = self._take()
            if token is END:
                raise Unreadable("a brace is not closed")
            depth += {"{": 1, "}": -1}.get(token.text, 0) if token.kind == "sign" else 0
            name += token.text if depth else ""
        return name

    def _group(self) -> Term:
        """What stands in braces, as one term."""
        self._expect("{")
        bars, self._bars = self._bars, 0
        term = as_term(self._sum())
        self._bars = bars
        self._expect("}")
        return term

    def _argument(self, *, digits: bool = True) -> Term:
        """The argument of a command: a group or an atom; of \\frac12 a digit, of √12 all of it."""
        if self._at("{"):
            return self._group()
        token = self.next
        if digits and token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self._stream[self._place] = Token("number", token.text[1:])
            return Number(Fraction(token.text[0]))
        return as_term(self._atom())

    def _command(self, name: str) -> Part:
        if name == "frac":
            return Apply("/", (self._argument(), self._argument()))
        if name == "binom":
            return Apply("binom", (self._argument(), self._argument()))
        if name.startswith("root"):
            return Apply("root", (self._argument(digits=False), Number(Fraction(name[4:]))))
        if name == "sqrt":
            degree: Term = Number(Fraction(2))
            if self._accept("[") is not None:
                degree = as_term(self._sum())
                self._expect("]")
            return Apply("root", (self._argument(digits=False), degree))
        if name in ("log", "lg"):
            return self._log(name)
        if name == "mathbb":
            letter = self._raw()
            return REALS if letter == "R" else Symbol(f"mathbb {letter}")
        if name in _ACCENTS:
            if self._stream[self._place + self._at("{")].kind == "number":
                raise Unreadable("a line over a number")
            return self._subscripted(f"{name} {self._raw()}")
        if name.startswith("begin "):
            return self._matrix(name.removeprefix("begin "))
        raise Unreadable(name)

    # -- functions ------------------------------------------------------------------------------

    def _log(self, name: str) -> Term:
        base: Term = Number(Fraction(10))
        if self._accept("_") is not None:
            base = self._argument() if self._at("{") else as_term(self._atom())
        return self._applied(lambda argument: Apply("log", (argument, base)))

    def _function(self, name: str) -> Term:
        if name in ("abs", "max", "min", "gcd", "lcm", "binom"):
            return self._called(name)
        return self._applied(lambda argument: Apply(name, (argument,)), name)

    def _called(self, name: str) -> Term:
        """A function that needs brackets, and may take several arguments."""
        brackets = self._take().text
        if brackets not in ("(", "\\{"):
            raise Unreadable(f"{name} without brackets")
        items, _ = self._items(_CLOSING[brackets])
        if len(items) not in FUNCTIONS.get(name, (1,)):
            raise Unreadable(f"{name} of {len(items)}")
        return Apply(name, tuple(map(expression, items)))

    def _applied(self, function: Callable[[Term], Term], name: str = "") -> Term:
        """A function with its argument: in brackets, or the product up to the next sign."""
        power: Term | None = None
        if self._accept("^") is not None:
            power = self._exponent()
            if power == Apply("neg", (Number(Fraction(1)),)):
                if f"arc{name}" not in FUNCTIONS:
                    raise Unreadable(f"the inverse of {name}")
                function, power = (lambda argument: Apply(f"arc{name}", (argument,))), None
        term = function(self._function_argument())
        return term if power is None else Apply("^", (term, power))

    def _function_argument(self) -> Term:
        if self._at("{"):
            return self._group()
        if self._at("(", "["):
            return as_term(self._atom())
        negative = self._accept("-") is not None
        argument = as_term(self._factor())
        while self._begins_factor() and self.next.kind != "function" and not self._at("(", "|"):
            if self._at_command("log", "lg"):
                break
            argument = appended("*", argument, as_term(self._factor()))
        if self._at("/") and (holds(argument, "π") or in_degrees(argument)):
            raise Unreadable("a quotient after the argument of a function")
        return Apply("neg", (argument,)) if negative else argument

    # -- brackets -------------------------------------------------------------------------------

    def _items(self, *closing: str) -> tuple[list[Form], str]:
        """Statements up to a closing bracket, separated by commas; and which bracket it was."""
        bars, self._bars = self._bars, 0
        found: list[Form] = []
        if not self._at(*closing):
            found.append(self.statement())
            while self._accept(",", ";") is not None:
                found.append(self.statement())
        self._bars = bars
        return found, self._expect(*closing)

    def _brackets(self, opening: str) -> Part:
        """A term in brackets, a tuple, or an interval."""
        items, closing = self._items(")", "]")
        if closing != _CLOSING[opening]:
            if len(items) != 2:
                raise Unreadable("brackets that do not match")
            low, high = map(expression, items)
            return regions.interval(low, high, opening == "[", closing == "]")
        if len(items) == 1:
            return items[0].term if isinstance(items[0], Expression) else items[0]
        if not items:
            raise Unreadable("empty brackets")
        return sequence("()" if opening == "(" else "[]", items)

    def _angles(self, opening: str) -> Part:
        items, _ = self._items("⟩")
        if len(items) < 2:
            raise Unreadable("one item in angle brackets")
        return sequence("()", items)

    def _set(self, opening: str) -> Part:
        """A set by its elements, or by a condition: {x | x > 3}. Braces of LaTeX only group."""
        closing = _CLOSING[opening]
        ahead = [token.text for token in self._stream[self._place : self._place + 2]]
        if self.next.kind == "symbol" and ahead[1:] in (["|"], [":"]):
            self._place += 2
            return regions.condition(ahead[0], self._items(closing)[0])
        items, _ = self._items(closing)
        if opening == "{" and len(items) == 1:
            return items[0].term if isinstance(items[0], Expression) else items[0]
        return sequence("{}", items)

    def _absolute(self, opening: str) -> Term:
        bars, self._bars = self._bars, 1
        term = as_term(self._sum())
        self._bars = bars
        self._expect("|")
        return Apply("abs", (term,))

    def _rounded(self, opening: str) -> Term:
        term = as_term(self._sum())
        self._expect("⌋" if opening == "⌊" else "⌉")
        return Apply("floor" if opening == "⌊" else "ceil", (term,))

    def _matrix(self, environment: str) -> Matrix:
        if environment not in _MATRICES:
            raise Unreadable(environment)
        rows: list[tuple[Term, ...]] = []
        while not self._at_command(f"end {environment}"):
            row = [as_term(self._sum())]
            while self._accept("&") is not None:
                row.append(as_term(self._sum()))
            rows.append(tuple(row))
            if self._accept("\\\\") is None:
                break
        if not self._at_command(f"end {environment}") or len({len(row) for row in rows}) != 1:
            raise Unreadable("rows of different lengths")
        self._take()
        return Matrix(tuple(rows))


_ATOMS: dict[str, Callable[[_Parser, str], Part]] = {
    "(": _Parser._brackets,
    "[": _Parser._brackets,
    "⟨": _Parser._angles,
    "\\{": _Parser._set,
    "{": _Parser._set,
    "|": _Parser._absolute,
    "⌊": _Parser._rounded,
    "⌈": _Parser._rounded,
    "∅": lambda parser, opening: Sequence("{}", ()),
}
