"""The sections about what is trained on: sample selection and unlabelled queries."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.section import ADDED, Section

RuleName = Literal["all_correct", "random_k", "threshold", "top_k", "bottom_k"]
SCORED: tuple[RuleName, ...] = ("threshold", "top_k", "bottom_k")
RankedBy = Literal["prm", "logprob", "length", "random", "checker"]
VotedBy = Literal["prm", "logprob", "majority"]


class Select(Section):
    """Sample selection (the paper's H): which correct responses are trained on."""

    reward: Literal["binary", "prm"] = "binary"
    """binary: correct or not. prm: correctness times the process reward R_p of `prm`. In place of a
    PRM that the gate does not pass, top_k and bottom_k rank by `otherwise`, and threshold keeps
    all."""
    rule: RuleName = "all_correct"
    """all_correct: every distinct one; random_k: k of them; threshold: R_p above `threshold`;
    top_k: the k that rank highest by `by`; bottom_k: the k that rank lowest."""
    by: RankedBy = Field(default="prm", json_schema_extra=ADDED)
    """What top_k and bottom_k rank by. prm: R_p, which needs select.reward=prm. What costs nothing:
    logprob, the log-likelihood of the response under the policy that sampled it (the sum of its
    stored log-probabilities, nats); length, in tokens, the shortest first; random. checker: the
    oracle of an ablation, true processes first, by the checker of the built-in task (data.path =
    digits)."""
    otherwise: Literal["logprob", "random"] = "logprob"
    """What takes the place of a PRM that the gate does not pass, for top_k and bottom_k."""
    k: int = Field(default=2, ge=1)
    """Responses kept of a query at most, for random_k, top_k and bottom_k."""
    threshold: float = Field(default=0.5, ge=0.0, le=1.0)
    """alpha of `threshold`: a probability."""


class Unlabelled(Section):
    """Prompt variation: what is done with training queries whose answers are hidden (paper section
    4). Their answers are read for the rate of correct pseudo-labels alone."""

    use: Literal["none", "pseudo", "oracle"] = Field(default="none", json_schema_extra=ADDED)
    """none: nothing. pseudo: the answer that wins the vote of a query's samples is taken for its
    gold answer. oracle: the hidden answers are used, for comparison."""
    mix_in: float = Field(default=0.0, ge=0.0, lt=1.0, json_schema_extra=ADDED)
    """T_mixin: share of the iterations after which unlabelled queries are mixed in; each iteration
    from then on draws `evolve.interval` of them besides its labelled ones."""
    vote: VotedBy = Field(default="prm", json_schema_extra=ADDED)
    """What a sample's vote counts. prm: R_p, which needs select.reward=prm (in place of a PRM that
    the gate does not pass: logprob, or majority with select.otherwise=random); logprob: the
    geometric mean of its token probabilities; majority: 1."""
    least_share: float = Field(default=0.0, ge=0.0, le=1.0, json_schema_extra=ADDED)
    """Least share of the vote for a pseudo-label, times the share of the samples that vote; less:
    the query drops out of the iteration."""
    queries: int | None = Field(default=None, ge=1, json_schema_extra=ADDED)
    """Queries of the unlabelled pool used at most, the same ones for every seed; null: all."""
