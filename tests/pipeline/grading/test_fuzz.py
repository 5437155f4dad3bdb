"""A hundred thousand pairs at random: no answer that is different is correct, nothing raises."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from pipeline.grading.grade import Gold, check_gold, judge
from tests.support.answer_fuzz import answers, noise


def fuzz(seed: int, pairs: int) -> tuple[Counter[str], list[str]]:
    """What became of so many pairs, and everything that should not have."""
    random, counts, wrong = Random(seed), Counter[str](), list[str]()

    def graded(answer: str, gold: Gold) -> str:
        verdict = judge(answer, gold)
        counts["pairs"] += 1
        if verdict.reason is not None:
            counts["exception: " + verdict.reason.rsplit(": ", 1)[-1]] += 1
        return verdict.outcome

    for name, fuzzed in answers(seed, pairs):
        gold = Gold("q", fuzzed.gold, fuzzed.type)
        if check_gold(gold) is not None:
            wrong.append(f"{name}: refused as gold: {fuzzed.gold!r}")
            continue
        counts[f"gold: {name}"] += 1
        for answer in (f"{fuzzed.gold} ", *fuzzed.same):
            if graded(answer, gold) != "correct":
                wrong.append(f"{name}: {fuzzed.gold!r} is not {answer!r}")
        for answer, change in fuzzed.other:
            counts[f"changed: {change}"] += 1
            if graded(answer, gold) == "correct":
                wrong.append(f"{name}: {fuzzed.gold!r} is {answer!r} ({change})")
        for _ in range(3):
            noisy = noise(fuzzed.gold, random)
            counts["noise: " + graded(noisy, gold)] += 1
            turned = Gold("q", noisy, fuzzed.type)
            if check_gold(turned) is None and graded(f"{noisy} ", turned) != "correct":
                wrong.append(f"{name}: {noisy!r} is not itself")
        if counts["pairs"] >= pairs:
            break
    return counts, wrong


def check(seed: int, pairs: int) -> None:
    counts, wrong = fuzz(seed, pairs)
    print(*(f"{count:7d}  {what}" for what, count in sorted(counts.items())), sep="\n")
    print(*wrong[:40], sep="\n")
    assert wrong == []
    assert counts["pairs"] >= pairs
    exceptions = sum(count for what, count in counts.items() if what.startswith("exception"))
    assert exceptions <= pairs // 1000


def test_no_changed_answer_is_correct() -> None:
    check(seed=1, pairs=1500)


@pytest.mark.slow
def test_no_changed_answer_is_correct_among_100_000() -> None:
    check(seed=2, pairs=100_000)
