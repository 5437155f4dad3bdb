"""Answers on their way to the driver: late, in any order, and some of them twice."""

from __future__ import annotations

from random import Random
from typing import Any


class Mail:
    """What workers have posted and the driver has not read.

    What is posted is an answer, or work that gives one when it is delivered. twice: the share of
    deliveries that bring an old answer again.
    """

    def __init__(self, random: Random, twice: float = 0.0) -> None:
        self.random = random
        self.twice = twice
        self.waiting: list[Any] = []
        self.old: list[Any] = []

    def post(self, answer: Any) -> None:
        self.waiting.append(answer)

    def deliver(self) -> list[Any]:
        """Some of what is waiting, at random."""
        self.random.shuffle(self.waiting)
        count = self.random.randint(0, len(self.waiting)) if self.waiting else 0
        out, self.waiting = self.waiting[:count], self.waiting[count:]
        out = [answer() if callable(answer) else answer for answer in out]
        if self.old and self.random.random() < self.twice:
            out.append(self.random.choice(self.old))
        self.old += out
        return out


class Answers:
    """A role whose answers come by mail."""

    mail: Mail

    def poll(self) -> list[Any]:
        """What has come."""
        return self.mail.deliver()
