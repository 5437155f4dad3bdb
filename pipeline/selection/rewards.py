"""From step scores to the reward of a response, and from rewards to what they are judged by.

What always holds:

* scores are probabilities (after the sigmoid); a score that is missing, NaN or outside [0, 1] is an
  error, never a 0;
* everything that ranks breaks ties towards the lower sample index, so shuffled rows give the same
  result;
* Reward-Pass@2 (`reward_pass`) ranks *all* samples of a query; the training selection
  (`pipeline.selection.rules`) ranks only the correct ones. They are two things and share no code.

A response without a single finished step has no reward (None). It is ranked after every response
that has one and votes for nothing; whoever calls counts how many there were.

Axes: Q queries, K samples of a query, S steps of a response, N votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Aggregate = Literal["min", "mean", "product", "last"]


def reward_p(scores_S: Sequence[float], how: Aggregate = "min") -> float:
    """R_p: the process reward of a response from its step scores (paper section 3).

    Raises:
        ValueError: no step, or a score that is no probability.
    """
    if not scores_S:
        raise ValueError("a response without steps has no process reward")
    for score in scores_S:
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"a step score is a probability, not {score}")
    if how == "min":
        return min(scores_S)
    if how == "last":
        return scores_S[-1]
    if how == "mean":
        return min(1.0, math.fsum(scores_S) / len(scores_S))
    # In log space: a long response's product must not lose its digits.
    if min(scores_S) == 0.0:
        return 0.0
    return min(1.0, math.exp(math.fsum(math.log(score) for score in scores_S)))
