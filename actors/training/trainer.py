"""One rank of the learner: DeepSpeed around a policy, without Ray.

Always:

* the loss of a step is the sum of the negative log-likelihood of the batch's response tokens
  divided by the whole batch's token count, whatever the ranks, micro-batch or accumulation (for a
  process reward model: of the losses of the batch's steps, by their count);
* every rank runs the same passes through the same modules, so no collective is left alone;
* randomness inside the model (dropout) is a function of seed, optimizer step and rank, and the
  learning rate of the step alone: a restored trainer continues as if it had never stopped.

The optimizer's moments exist from the start, so that a checkpoint can be written before the first
step and read into a fresh engine.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.model.collate import IGNORED, Collator, ImageSource, Micro, ahead
from actors.model.processor import sampling_logprobs
from actors.model.reading import load_model
from actors.model.value_head import (
    HEAD,
    add_head,
    read_head,
    read_likelihood,
    steps_loss,
    take_likelihood,
)
from actors.training.checkpoint import Saved, restore, starting_moments, write_part
from actors.training.publish import publish, whole_state
from pipeline.errors import BadModel, TrainingDiverged
from pipeline.hashing import sha256_hex
from pipeline.model_settings import published_settings
from pipeline.storage.trees import Beat, TreeFile, quiet
from pipeline.training.batches import MicroBatch, batches, micro_batches
from pipeline.training.freezing import frozen_problem, is_frozen
from pipeline.training.metrics import RankReport
from pipeline.training.rows import TrainRow
from pipeline.training.settings import LearnSettings, Span, learning_rate_at

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Elements communicated at once. DeepSpeed's default reserves 2 GB for small models too.
BUCKET = 50_000_000


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass of this rank. tokens (or steps), rows: of the whole batch."""

    rows: tuple[TrainRow, ...]
    anchors: tuple[TrainRow, ...]
    tokens: int
    batch_rows: int
    opens: bool
    closes: bool


def join_group(rank: int, world: int, init_method: str, *, timeout_s: int = 600) -> None:
    """Make this process rank `rank` of a gloo group without Ray (`init_method`: file:// or
    tcp://)."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    torch.distributed.init_process_group(
        "gloo",
        init_method=init_method,
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=timeout_s),
    )


def _deepspeed(settings: LearnSettings) -> Any:
    """DeepSpeed on top of the process group that is already there.

    On a CPU it would compile a shared-memory collective (a minute, needs a compiler) whose wait has
    no time limit: the peers of a killed rank would spin for ever. Plain gloo notices.
    """
    if not settings.gpus_per_rank:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # PyTorch renames collectives; DeepSpeed says so at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed.*")
    deepspeed.utils.logger.setLevel("WARNING")
    if not settings.gpus_per_rank:
        # To read this has DeepSpeed probe every operation that it could compile.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        backend = torch.distributed.get_backend()
        deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return deepspeed


def engine_config(settings: LearnSettings, world: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Accumulation is driven by hand, because a last batch may be
    smaller, so to DeepSpeed each pass is a batch of its own."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": settings.micro_batch,
        "train_batch_size": settings.micro_batch * world,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm,
        "steps_per_print": 1_000_000_000,
        "zero_optimization": {
            "stage": settings.zero_stage,
            # Overlapped reductions add gradients in an order that depends on timing.
            "overlap_comm": bool(settings.gpus_per_rank) and not settings.deterministic,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
        },
    }
    if settings.precision == "bfloat16":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def load_policy(folder: Path, settings: LearnSettings) -> Any:
    """The policy in `folder`, its frozen parameters marked.

    Raises:
        BadModel: when `frozen` names nothing of it, or its head; or its own code may not be run.
    """
    trust = published_settings(folder, settings.trust_remote_code).trust_remote_code
    model = load_model(folder, DTYPES[settings.precision], trust)
    model.config.use_cache = False
    if settings.objective == "steps":
        add_head(model, read_head(folder), read_likelihood(folder))
    problem = frozen_problem([name for name, _ in model.named_parameters()], settings.frozen, HEAD)
    if problem is not None:
        raise BadModel(f"frozen: {folder}: {problem}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not is_frozen(name, settings.frozen))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def partition(model: Any, config: Mapping[str, Any]) -> None:
    """Divide a loaded model among the ranks, one parameter after the other, as ZeRO stage 3 does.

    DeepSpeed would do so later by itself, after it has put the whole model on every rank's device:
    what fits there divided may not fit there whole. (`HfDeepSpeedConfig` of transformers divides
    while a model is loaded, but has what the model computes by itself then, vision towers' rotary
    frequencies among it, in the learner's precision.)
    """
    import deepspeed

    deepspeed.zero.Init(module=model, config_dict_or_path=dict(config))
    device = deepspeed.accelerator.get_accelerator().current_device_name()
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.to(device))


def logits_of(engine: Any, micro: Micro) -> Tensor:
    """Logits that predict the kept positions' targets, in float32."""
    logits = engine(**micro.inputs, use_cache=False, logits_to_keep=micro.keep).logits
    return logits[:, -micro.keep :].float()


def response_nll(engine: Any, micro: Micro) -> Tensor:
    """Summed negative log-likelihood, in nats, of a micro-batch's response tokens."""
    return torch.nn.functional.cross_entropy(
        logits_of(engine, micro).flatten(0, 1),
        micro.targets_B_G.flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


class Trainer:
    """A policy in training on this rank; the process group must exist before it is made."""

    def __init__(
        self,
        settings: LearnSettings,
        policy: Path,
        images: ImageSource,
        checkpoint: Path | None = None,
        beat: Beat = quiet,
    ) -> None:
        deepspeed = _deepspeed(settings)
        torch.set_num_threads(settings.threads)
        torch.use_deterministic_algorithms(settings.deterministic)
        self.settings = settings
        self.policy = policy
        self.rank = torch.distributed.get_rank()
        self.world = torch.distributed.get_world_size()
        self.collator = Collator(policy, images, trusted=settings.trust_remote_code)
        self.step = 0
        self.cursor: dict[str, Any] = {}
        model = load_policy(policy, settings)
        saved = Saved.open(checkpoint) if checkpoint is not None else None
        if saved is not None:
            saved.copy_weights(model, beat)
        beat("partitioning the model")
        config = engine_config(settings, self.world)
        if settings.zero_stage == 3:
            partition(model, config)
        self.engine = deepspeed.initialize(
            model=model,
            optimizer=self._adam(model),
            config=config,
            dist_init_required=False,
        )[0]
        starting_moments(self.engine)
        if saved is not None:
            moments = settings.inherit == "all"
            restore(self.engine, saved, beat, moments=moments)
            if moments:
                self.step, self.cursor = saved.step, saved.cursor

    def _adam(self, model: Any) -> torch.optim.AdamW:
        settings = self.settings
        return torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            # PyTorch's own fused kernel: nothing to compile on any device.
            fused=True,
        )

    @property
    def model(self) -> Any:
        """The module inside the engine."""
        return self.engine.module

    def _plan(self, rows_B: Sequence[TrainRow]) -> list[MicroBatch]:
        """This rank's micro-batches of some rows."""
        return micro_batches(
            [row.length for row in rows_B],
            self.world,
            self.settings.micro_batch,
            [bool(row.images) for row in rows_B],
        )[self.rank]

    def passes(self, rows_B: Sequence[TrainRow]) -> list[Pass]:
        """This rank's passes over one batch."""
        plan_M = self._plan(rows_B)
        tokens = sum(row.units for row in rows_B)
        return [
            Pass(
                tuple(rows_B[index] for index in micro.rows),
                tuple(rows_B[index] for index in micro.anchors),
                tokens,
                len(rows_B),
                opens=turn == 0,
                closes=turn == len(plan_M) - 1,
            )
            for turn, micro in enumerate(plan_M)
        ]

    def train(
        self,
        rows: Sequence[TrainRow],
        seed: int,
        *,
        first: int = 0,
        last: int | None = None,
        span: Span | None = None,
        beat: Callable[[str], None] = lambda _: None,
    ) -> RankReport:
        """One epoch over `rows`, all in plan order on every rank; or steps `first` to `last` of it.

        seed: of their order. span: where the steps stand in the schedule. beat: told of each pass.
        """
        lengths = [row.length for row in rows]
        plan_S = batches(lengths, seed, self.settings.batch_size, self.settings.window)[first:last]
        passes = (item for batch in plan_S for item in self.passes([rows[i] for i in batch]))
        started = time.perf_counter()
        nll_S, norm_S, closed_S = [0.0], list[float](), list[Pass]()
        self.engine.train()
        for item, micro in self.collated(passes):
            beat(f"step {len(norm_S) + 1} of {len(plan_S)}")
            if item.opens:
                self._open_step()
            nll_S[-1] += self.backward(item, micro)
            if item.closes:
                norm_S.append(self._update(span))
                nll_S.append(0.0)
                closed_S.append(item)
        return RankReport(
            nll_S=tuple(nll_S[:-1]),
            tokens_S=tuple(item.tokens for item in closed_S),
            rows_S=tuple(item.batch_rows for item in closed_S),
            grad_norm_S=tuple(norm_S),
            learning_rate=learning_rate_at(max(0, self.step - 1), self.settings, span),
            step=self.step,
            seconds=time.perf_counter() - started,
        )

    def collated(self, passes: Iterable[Pass]) -> Iterator[tuple[Pass, Micro]]:
        """Passes with their tensors, made by another thread while this one computes."""

        def collate(item: Pass) -> tuple[Pass, Micro]:
            micro = self.collator.collate(item.rows, item.anchors)
            return item, micro

        return ahead(collate, passes)

    def _loss(self, micro: Micro) -> Tensor:
        """The summed loss of a micro-batch: negative log-likelihood, or that of its steps."""
        if self.settings.objective == "steps":
            return steps_loss(self.engine, micro, self.settings.step_loss)
        return response_nll(self.engine, micro)

    def _open_step(self) -> None:
        if self.settings.zero_stage == 3:
            # DeepSpeed keeps the last step's gradient of a parameter that takes no part in this one
            # (the vision tower, when no row of the batch has an image), and would apply it again.
            self.engine.optimizer.grad_partitions_flat_buffer.zero_()
        drawn = sha256_hex(f"{self.settings.seed}/{self.step}/{self.rank}".encode())
        torch.manual_seed(int(drawn[:15], 16))

    def backward(self, item: Pass, micro: Micro) -> float:
        """Add a pass's share to the gradients; its summed negative log-likelihood."""
        self.engine.set_gradient_accumulation_boundary(item.closes)
        nll = self._loss(micro.to(self.engine.device))
        # DeepSpeed averages over the ranks; the loss is a sum over them.
        self.engine.backward(nll * (self.world / item.tokens), scale_wrt_gas=False)
        return float(nll.detach())

    def _update(self, span: Span | None) -> float:
        """One optimizer step; the gradient norm before clipping."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self.settings, span)
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        self.step += 1
        if not math.isfinite(norm):
            raise TrainingDiverged(
                f"gradient norm {norm} at optimizer step {self.step}: lower learn.learning_rate"
            )
        return norm

    def logprobs(
        self,
        rows: Sequence[TrainRow],
        temperature: float,
        top_p: float = 1.0,
        *,
        beat: Callable[[str], None] = lambda _: None,
    ) -> dict[int, list[float]]:
        """Log-probabilities, in nats, of the response tokens of this rank's share of `rows`, under
        the distribution that an engine samples from (see `actors.model.processor`)."""
        plan_M = self._plan(rows)
        found: dict[int, list[float]] = {}
        self.engine.eval()
        with torch.no_grad():
            for turn, plan in enumerate(plan_M):
                beat(f"log-probabilities {turn + 1} of {len(plan_M)}")
                micro = self.collator.collate(
                    [rows[index] for index in plan.rows], [rows[index] for index in plan.anchors]
                ).to(self.engine.device)
                logits_B_G_V = logits_of(self.engine, micro)
                for place, index in enumerate(plan.rows):
                    wanted_G = micro.targets_B_G[place] != IGNORED
                    found[index] = sampling_logprobs(
                        logits_B_G_V[place][wanted_G],
                        micro.targets_B_G[place][wanted_G],
                        forbidden=self.collator.processor.forbidden,
                        temperature=temperature,
                        top_p=top_p,
                    ).tolist()
        return found

    def checkpoint_part(self, folder: Path, beat: Beat = quiet) -> TreeFile:
        """Write this rank's part of a checkpoint; `Checkpoint.of` makes the parts one."""
        return write_part(self.engine, folder, beat)

    def facts(self, cursor: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint written now says besides tensors."""
        names = ("beta1", "beta2", "epsilon", "weight_decay", "schedule", "precision", "seed")
        return {
            "step": self.step,
            "cursor": dict(cursor),
            "ranks": self.world,
            "zero_stage": self.settings.zero_stage,
            "learner": {name: getattr(self.settings, name) for name in names},
        }

    def publish(self, folder: Path, beat: Beat = quiet) -> None:
        """Write the policy as it is now as a complete folder. All ranks must call, one writes."""
        state = whole_state(self.engine, keep=self.rank == 0, beat=beat)
        if self.rank == 0:
            beat("publishing: writing the folder")
            publish(self.model, state, self.policy, folder, take_likelihood(state))

    def close(self) -> None:
        """Let go of the engine's memory and hooks."""
        optimizer = self.engine.optimizer
        self.engine.destroy()
        if self.settings.zero_stage == 3:
            # Its bottom is the model of every engine there ever was, and with it all their states.
            from deepspeed.runtime.zero.parameter_offload import FWD_MODULE_STACK

            FWD_MODULE_STACK.clear()
            # Once there was a backward pass, hooks of autograd hold parameters and optimizer in a
            # circle that the garbage collector does not see: what these hold goes by hand.
            for parameter in self.model.parameters():
                vars(parameter).clear()
                parameter.data = parameter.data.new_empty(0)
            optimizer.optimizer.state.clear()
            optimizer.optimizer.param_groups.clear()
            vars(optimizer).clear()
