"""The sections about training: the learner, and the iterations that it trains in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.config.section import ADDED, FREE, NUMERICS, Section, Share

MethodName = Literal["continuous", "iterative_rft", "rest_em", "sft"]


class Learn(Section):
    """Training, and the ranks that do it.

    The objective is the likelihood of the selected responses' tokens, without a KL term: there is
    no reference model, and none is loaded.
    """

    learning_rate: float = Field(default=1e-6, gt=0.0, lt=1.0)
    """Peak learning rate of the evolution."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape over the run: linear and cosine fall from the first iteration to the end of the last,
    each iteration over its share of that, however many steps its responses make."""
    schedule_share: float = Field(default=1.0, gt=0.0, json_schema_extra=ADDED)
    """Share of the run after which linear and cosine reach 0. Less than 1 is refused: the steps
    after that would change nothing. 1.25 ends at a fifth of the peak (linear)."""
    schedule_rise: int = Field(default=0, ge=0)
    """Optimizer steps over which the learning rate rises from 0."""
    schedule_steps: int | None = Field(default=None, ge=1)
    """Only of runs by rules 1 (run.rules): optimizer steps of the whole schedule, all iterations
    together."""
    batch_size: int = Field(default=128, ge=1)
    """Responses in one optimizer step, over all ranks. Gradient accumulation has no key of its own:
    it is batch_size / (ranks x micro_batch) passes of each rank, rounded up."""
    window: int = Field(default=4096, ge=1)
    """Selected rows that are shuffled and length-balanced together."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Decay of Adam's first moment."""
    beta2: float = Field(default=0.95, ge=0.0, lt=1.0)
    """Decay of Adam's second moment."""
    epsilon: float = Field(default=1e-8, gt=0.0)
    """Adam's epsilon, added to the root of the second moment."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Global gradient norm above which gradients are scaled down."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """Of forward and backward; master weights and moments are float32."""
    logprob_tolerance: float = Field(default=0.05, gt=0.0)
    """Nats: mean deviation between the learner's and the engine's log-probabilities on the first
    batch of an iteration above which the run stops."""
    checkpoint_steps: int | None = Field(default=None, ge=1, json_schema_extra=FREE)
    """Optimizer steps between checkpoints inside an iteration; null: only at its end."""
    keep_checkpoints: bool = Field(default=False, json_schema_extra=FREE)
    """Keep the last checkpoint of every job (twelve bytes a parameter), so that another run in this
    store that has an equal job adopts it; false: only those that this run goes on from."""
    ranks: int = Field(default=1, ge=1, json_schema_extra=NUMERICS)
    """Learner processes."""
    micro_batch: int = Field(default=8, ge=1, json_schema_extra=NUMERICS)
    """Responses of one forward pass on one rank."""
    zero_stage: Literal[1, 2, 3] = Field(default=1, json_schema_extra=NUMERICS)
    """DeepSpeed ZeRO stage."""
    gradient_checkpointing: bool = Field(default=False, json_schema_extra=NUMERICS)
    """Recompute activations in the backward pass."""
    attempts: int = Field(default=5, ge=1, json_schema_extra=FREE)
    """Times in a row a learner group may die without a new checkpoint before the run stops."""
    start_s: float = Field(default=900.0, gt=0.0, json_schema_extra=FREE)
    """Seconds for the ranks to be placed and started and to have loaded the policy."""
    hang_s: float = Field(default=600.0, gt=0.0, json_schema_extra=FREE)
    """Seconds without progress on any rank after which the group is started again. Each step, each
    parameter that is loaded or written and each part that is stored is progress."""
    collective_timeout_s: int = Field(default=600, ge=1, json_schema_extra=FREE)
    """Seconds that a rank waits for its peers before it gives up."""
    answer_s: float = Field(default=60.0, gt=0.0, json_schema_extra=FREE)
    """Seconds that the process between driver and ranks has for an answer."""
    end_s: float = Field(default=15.0, gt=0.0, json_schema_extra=FREE)
    """Seconds that the ranks have to end by themselves before they are killed."""


class Evolve(Section):
    """The iterations."""

    method: MethodName = Field(default="continuous", json_schema_extra=ADDED)
    """continuous: each iteration goes on with weights, moments and schedule of the last;
    iterative_rft: with its weights and a new optimizer; rest_em: again from the warm-up. These two
    draw the whole pool each time (evolve.interval=1) and fall over each iteration anew. sft: the
    baseline, which samples nothing and goes on training the warm-up on the gold answers; with
    evolve.steps for as many steps as other methods."""
    iterations: int = Field(default=8, ge=0)
    """How many at most; 0: warm-up only."""
    steps: int | None = Field(default=None, ge=1, json_schema_extra=ADDED)
    """Optimizer steps of all iterations together, at most; null: as many as they make."""
    patience: int | None = Field(default=None, ge=1, json_schema_extra=ADDED)
    """Iterations without a better validation greedy after which the evolution ends; null: any."""
    stop_saturated: bool = Field(default=False, json_schema_extra=ADDED)
    """End the evolution when Pass@K on validation cannot be told from greedy: nothing is left to
    select. Needs evaluate.samples."""
    interval: Share = 0.25
    """Share of the labelled pool that one iteration draws."""
    epochs: int = Field(default=1, ge=1, le=100)
    """Epochs over an iteration's selected responses."""
    final: Literal["best", "last"] = Field(default="best", json_schema_extra=ADDED)
    """Which policy is final, of the evolution and of its control. best: the highest validation
    greedy, the warm-up's included, ties to the later. last: the one after the last iteration, so
    that runs of a comparison end at their fixed steps and no choice by few questions adds noise."""
    control: bool = True
    """Also train the warm-up policy for as many further steps on gold-conditioned chains of the
    labelled queries that the evolution sees."""
