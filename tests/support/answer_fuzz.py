"""Gold answers at random, the same in another notation, and others that are different.

The oracle shares no code with the grader: a tree is evaluated as it was drawn, with 60 digits, and
what cancels in the first 50 of them is zero (sin π, 1 - cos 0). An answer is `other` where some
value in it differs in the first 30 digits.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from mpmath import MPContext

from pipeline.query import AnswerType

# An expression's tree: ("+", a, b), ("int", 3), ("f", "sin", a), ...; `value` reads it.
Node = tuple[Any, ...]
_POINTS = [
    {"x": "0.7", "y": "1.3", "X": "2.1", "n": "0.4", "α": "1.9"},
    {"x": "1.9", "y": "0.6", "X": "0.35", "n": "1.7", "α": "0.55"},
    {"x": "3.2", "y": "2.7", "X": "1.45", "n": "2.6", "α": "3.1"},
]
_LETTERS = list(_POINTS[0])
_MP = MPContext()
_MP.dps = 60
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
    "^": operator.pow,
}  # fmt: skip
_FUNCTIONS = {"ln": _MP.log, "sin": _MP.sin, "cos": _MP.cos, "tan": _MP.tan}
_UNITS = ["cm", "m", "kg", "s", "km/h", "m/s^2", "°", "N", "cm^2", "L", "minutes", "厘米"]


@dataclass(frozen=True)
class Fuzzed:
    """same: the gold answer in other words; other: different answers, and what was changed."""

    type: AnswerType
    gold: str
    same: tuple[str, ...]
    other: tuple[tuple[str, str], ...]


# -- trees -------------------------------------------------------------------------------------


def tree(random: Random, depth: int) -> Node:
    if depth == 0 or random.random() < 0.2:
        return _leaf(random)
    kind = random.choice(["+", "-", "*", "/", "^", "√", "f", "+", "*", "/"])
    inner = tree(random, depth - 1)
    if kind == "^":
        return ("^", inner, random.randrange(2, 5))
    if kind == "√":
        return ("√", inner)
    if kind == "f":
        return ("f", random.choice(["sin", "cos", "ln", "tan"]), inner)
    return (kind, inner, tree(random, depth - 1))


def _leaf(random: Random) -> Node:
    chance = random.random()
    if chance < 0.5:
        return ("int", random.randrange(1, 30))
    if chance < 0.6:
        return ("dec", random.randrange(11, 999), random.choice([1, 2]))
    return ("sym", random.choice(_LETTERS)) if chance < 0.95 else ("π",)


def value(node: Any, point: dict[str, str]) -> Any:
    """The value of a tree; ArithmeticError or ValueError where it has none."""
    match node:
        case ("int", whole):
            return _MP.mpf(whole)
        case ("dec", digits, places):
            return _MP.mpf(digits) / 10**places
        case ("sym", name):
            return _MP.mpf(point[name])
        case ("π",):
            return +_MP.pi
        case ("f", name, a):
            return _cleared(_FUNCTIONS[name](value(a, point)), 1)
        case ("√", a):
            return _MP.sqrt(value(a, point))
    values = [value(part, point) if isinstance(part, tuple) else part for part in node[1:]]
    found = _OPERATIONS[node[0]](*values)
    return _cleared(found, max(map(abs, values))) if node[0] in ("+", "-") else found


def _cleared(found: Any, size: Any) -> Any:
    """Zero where no more than the error of 60 digits is left of something of this size."""
    return _MP.mpf(0) if abs(found) < size * _MP.mpf(10) ** -50 else found


def latex(node: Any) -> str:
    out: str
    match node:
        case ("int", number):
            out = str(number)
        case ("dec", number, places):
            out = f"{number / 10**places:.{places}f}"
        case ("sym", name):
            out = {"α": "\\alpha "}.get(str(name), str(name))
        case ("π",):
            out = "\\pi "
        case ("+" | "-" as sign, a, b):
            out = f"{latex(a)}{sign}{_closed(b, latex)}"
        case ("*", a, b):
            out = f"{_closed(a, latex)} \\cdot {_closed(b, latex)}"
        case ("/", a, b):
            out = f"\\frac{{{latex(a)}}}{{{latex(b)}}}"
        case ("^", a, exponent):
            out = f"{_closed(a, latex)}^{{{exponent}}}"
        case ("√", a):
            out = f"\\sqrt{{{latex(a)}}}"
        case ("f", name, a):
            out = f"\\{name}\\left({latex(a)}\\right)"
        case _:
            raise AssertionError(node)
    return out


def plain(node: Any) -> str:
    out: str
    match node:
        case ("int" | "dec", *_):
            out = latex(node)
        case ("sym", name):
            out = str(name)
        case ("π",):
            out = "π"
        case ("+" | "-" as sign, a, b):
            out = f"{plain(a)} {sign} {_closed(b, plain)}"
        case ("*", a, b):
            out = f"{_closed(a, plain)}*{_closed(b, plain)}"
        case ("/", a, b):
            out = f"({plain(a)})/({plain(b)})"
        case ("^", a, exponent):
            out = f"{_closed(a, plain)}^{exponent}"
        case ("√", a):
            out = f"sqrt({plain(a)})"
        case ("f", name, a):
            out = f"{name}({plain(a)})"
        case _:
            raise AssertionError(node)
    return out


def _closed(node: Node, written: Callable[[Node], str]) -> str:
    bare = node[0] in ("int", "dec", "sym", "π", "√")
    return written(node) if bare else f"({written(node)})"


def turned(node: Node) -> Node:
    """The same value, with sums and products the other way round."""
    if node[0] in ("+", "*"):
        return (node[0], turned(node[2]), turned(node[1]))
    return tuple(turned(part) if isinstance(part, tuple) else part for part in node)


def mutated(node: Any, random: Random) -> Node:
    """One digit, sign, exponent, letter, function or order changed."""
    children = [i for i, part in enumerate(node) if isinstance(part, tuple)]
    if children and random.random() < 0.75:
        index = random.choice(children)
        return (*node[:index], mutated(node[index], random), *node[index + 1 :])
    out: Node
    match node:
        case ("int", number):
            out = ("int", max(1, number + random.choice([-10, -1, 1, 10, 100])))
        case ("dec", number, places):
            out = ("dec", number + random.choice([-10, 10, 100]), places)
        case ("sym", name):
            out = ("sym", random.choice([letter for letter in _LETTERS if letter != name]))
        case ("π",):
            out = ("int", 3)
        case ("+" | "-" as sign, a, b):
            out = ("-" if sign == "+" else "+", a, b) if random.random() < 0.6 else ("-", b, a)
        case ("*", a, b):
            out = ("/", a, b)
        case ("/", a, b):
            out = ("/", b, a) if random.random() < 0.7 else ("*", a, b)
        case ("^", a, exponent):
            out = ("^", a, exponent + random.choice([-1, 1, 10]))
        case ("√", a):
            out = a
        case ("f", name, a):
            out = ("f", random.choice([f for f in ("sin", "cos", "ln") if f != name]), a)
        case _:
            raise AssertionError(node)
    return out


def differ(a: Node, b: Node) -> bool:
    """Whether two trees are different for certain: somewhere both are real, and far apart."""
    found = False
    for point in _POINTS:
        try:
            left, right = value(a, point), value(b, point)
        except (ArithmeticError, ValueError):
            continue
        real = all(_MP.im(v) == 0 and abs(v) < 1e9 for v in (left, right))
        size = max(abs(left), abs(right)) * _MP.mpf(10) ** -30
        found = found or (real and bool(abs(left - right) > size))
    return found


def defined(node: Node) -> bool:
    """Whether a tree has a real value of usual size somewhere."""
    for point in _POINTS:
        try:
            here = value(node, point)
        except (ArithmeticError, ValueError):
            continue
        if _MP.im(here) == 0 and abs(here) < 1e9:
            return True
    return False


# -- answers -----------------------------------------------------------------------------------


def _pair(random: Random, depth: int) -> tuple[Node, Node]:
    """A tree and another that is different."""
    while True:
        node = tree(random, depth)
        other = mutated(node, random)
        if defined(node) and differ(node, other):
            return node, other


def expression(random: Random) -> Fuzzed:
    node, other = _pair(random, random.randrange(1, 5))
    same = (plain(node), latex(turned(node)), f"y_1 = {latex(node)}")
    changed = [(latex(other), "tree"), (plain(other), "tree"), (f"y_1={latex(other)}", "tree")]
    return Fuzzed("expression", latex(node), same, tuple(changed))


def named(random: Random) -> Fuzzed:
    node, other = _pair(random, 2)
    name, wrong = random.sample(
        ["k", "K", "AB", "CD", "\\theta", "r", "R", "f(t)", "v_0", "v_1"], 2
    )
    gold = f"{name} = {latex(node)}"
    changed = ((f"{wrong} = {latex(node)}", "name"), (f"{name}={latex(other)}", "tree"))
    return Fuzzed("expression", gold, (plain(node), f"{name}={plain(node)}"), changed)


def _items(random: Random, count: int) -> tuple[list[Node], int, Node]:
    """Trees, a place among them, and a different tree for it; none equal to another."""
    while True:
        nodes = [tree(random, 1) for _ in range(count)]
        place = random.randrange(count)
        other = mutated(nodes[place], random)
        pairs = [(a, b) for i, a in enumerate([*nodes, other]) for b in [*nodes, other][:i]]
        if all(map(defined, nodes)) and all(differ(a, b) for a, b in pairs):
            return nodes, place, other


def listed(random: Random) -> Fuzzed:
    nodes, place, other = _items(random, random.randrange(2, 5))
    kind = random.choice(["()", "{}", "[]", "list"])
    opening, closing = {"()": "()", "{}": ("\\{", "\\}"), "[]": "[]", "list": ("", "")}[kind]

    def written(items: list[Node], form: Callable[[Node], str] = latex) -> str:
        return opening + ", ".join(map(form, items)) + closing

    swapped = [*nodes[1:], nodes[0]]
    changed = [(written([*nodes[:place], other, *nodes[place + 1 :]]), "item")]
    longer = [*nodes, other if kind == "{}" else nodes[0]]
    changed += [(written(nodes[:-1]), "shorter"), (written(longer), "longer")]
    same = [written(nodes, plain), written(list(map(turned, nodes)))]
    if kind == "{}":
        same.append(written(swapped))
    else:
        changed.append((written(swapped), "order"))
    return Fuzzed(
        "list" if kind == "list" else "expression", written(nodes), tuple(same), tuple(changed)
    )


def matrix(random: Random) -> Fuzzed:
    nodes, place, other = _items(random, 4)
    environment = random.choice(["pmatrix", "bmatrix", "matrix"])

    def written(items: list[Node], form: Callable[[Node], str] = latex, name: str = "") -> str:
        a, b, c, d = map(form, items)
        used = name or environment
        return f"\\begin{{{used}}}{a} & {b} \\\\ {c} & {d}\\end{{{used}}}"

    a, b, c, d = nodes
    same = (written(nodes, plain), written(nodes, name="bmatrix"))
    changed = [written([*nodes[:place], other, *nodes[place + 1 :]]), written([a, c, b, d])]
    changed += [written([c, d, a, b]), f"{latex(a)}, {latex(b)}, {latex(c)}, {latex(d)}"]
    return Fuzzed("expression", written(nodes), same, tuple((text, "matrix") for text in changed))


def interval(random: Random) -> Fuzzed:
    low = random.randrange(-50, 50)
    high = low + random.randrange(1, 40)
    left, right = random.choice("(["), random.choice(")]")
    signs = {"(": "<", "[": "\\le", ")": "<", "]": "\\le"}
    same = [f"{low} {signs[left]} x {signs[right]} {high}", f"x \\in {left}{low}, {high}{right}"]
    turned_signs = {"<": ">", "\\le": "\\ge"}
    same.append(f"{high} {turned_signs[signs[right]]} x {turned_signs[signs[left]]} {low}")
    other = "(" if left == "[" else "["
    changed = [
        (f"{other}{low},{high}{right}", "bracket"),
        (f"{left}{low},{high + 1}{right}", "end"),
        (f"{left}{low - 1},{high}{right}", "end"),
        (f"{low} {signs[other]} x {signs[right]} {high}", "sign"),
        (f"x {signs[right]} {high}", "side"),
    ]
    return Fuzzed("expression", f"{left}{low},{high}{right}", tuple(same), tuple(changed))


def ratio(random: Random) -> Fuzzed:
    parts = random.sample(range(1, 9), random.randrange(2, 4))
    factor = random.randrange(2, 6)
    index = random.randrange(len(parts))
    other = [part + (i == index) for i, part in enumerate(parts)]
    rest = parts[1:] + parts[:1]
    changed = [(":".join(map(str, other)), "part"), (":".join(map(str, rest)), "order")]
    changed = [
        (t, w) for t, w in changed if not _proportional([int(p) for p in t.split(":")], parts)
    ]
    same = ":".join(str(part * factor) for part in parts)
    gold = ":".join(map(str, parts))
    return Fuzzed("expression", gold, (same, gold.replace(":", " : ")), tuple(changed))


def _proportional(a: list[int], b: list[int]) -> bool:
    return all(x * b[0] == y * a[0] for x, y in zip(a, b, strict=True))


def based(random: Random) -> Fuzzed:
    base = random.randrange(2, 11)
    digits = "".join(str(random.randrange(base)) for _ in range(random.randrange(2, 7)))
    digits = str(random.randrange(1, base)) + digits
    other = digits[:-1] + str((int(digits[-1]) + 1) % base)
    changed = (
        (digits, "no base"),
        (f"{digits}_{{{base + 1}}}", "base"),
        (f"{other}_{{{base}}}", "digit"),
    )
    return Fuzzed("expression", f"{digits}_{{{base}}}", (f"({digits})_{{{base}}}",), changed)


def number(random: Random) -> Fuzzed:
    places = random.choice([0, 0, 1, 2])
    digits, unit = random.randrange(10, 10**6), random.choice([*_UNITS, "", "", ""])
    text = _decimal(digits, places)
    gold = f"{text} {unit}".strip()
    other = digits + random.choice([-1, 1]) * 10 ** random.randrange(0, 6)
    changed = [(f"{_decimal(other, places)} {unit}".strip(), "digit"), (f"-{gold}", "sign")]
    changed += [(f"{text}{random.randrange(1, 9)} {unit}".strip(), "longer")] if not places else []
    changed += [(f"{text} apples", "noun"), (f"{text}x", "letter"), (f"{text}!", "factorial")]
    if unit:
        wrong = random.choice(
            [one for one in _UNITS if one != unit and {one, unit} != {"cm", "厘米"}]
        )
        changed.append((f"{text} {wrong}", "unit"))
    same = (text, f"x = {gold}", f"The answer is {gold}.", f"答案：{gold}。")
    return Fuzzed("number", gold, same, tuple(changed))


def _decimal(digits: int, places: int) -> str:
    sign, text = "-" * (digits < 0), f"{abs(digits):0{places + 1}d}"
    return sign + (f"{text[:-places]}.{text[-places:]}" if places else text)


def time(random: Random) -> Fuzzed:
    hours, minutes = random.randrange(1, 13), random.randrange(60)
    gold = f"{hours}:{minutes:02d}"
    changed = (f"{hours}:{(minutes + 1) % 60:02d}", f"{hours % 12 + 1}:{minutes:02d}")
    kind: AnswerType = random.choice(["word", "expression"])
    return Fuzzed(kind, gold, (f"{hours:02d}:{minutes:02d}",), tuple((c, "time") for c in changed))


KINDS: dict[str, Callable[[Random], Fuzzed]] = {
    "expression": expression, "named": named, "list": listed, "matrix": matrix,
    "interval": interval, "ratio": ratio, "base": based, "number": number, "time": time,
}  # fmt: skip
_PIECES = r"""0 1 9 . , - + * / ^ _ ( ) [ ] { } \{ \frac \sqrt \sin ° \circ % : = < \le x X i e π
    ! | cm \cup or and \pm \begin{pmatrix} \\ & ' $ 、 ， 厘米 ∅ \infty"""  # fmt: skip


def noise(text: str, random: Random) -> str:
    """A text with a few pieces of it removed, doubled, swapped or replaced."""
    for _ in range(random.randrange(1, 4)):
        place = random.randrange(len(text) + 1)
        end = min(len(text), place + random.randrange(0, 3))
        piece = random.choice(["", random.choice(_PIECES.split()), text[place:end] * 2])
        text = text[:place] + piece + text[end:]
    return text or "?"


def answers(seed: int, count: int) -> Iterator[tuple[str, Fuzzed]]:
    """So many fuzzed gold answers with the name of their kind."""
    random = Random(seed)
    for index in range(count):
        name = (
            list(KINDS)[index % len(KINDS)]
            if index % 2
            else random.choice(["expression", "number"])
        )
        yield name, KINDS[name](random)
