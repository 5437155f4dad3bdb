"""How a vLLM is built here, and the environment that its process needs.

Importing this module loads no engine. Settings that change results are part of `identity`, which
every shard's key holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from actors.model.reading import processor_options
from actors.model.text_config import is_recurrent, most_positions
from pipeline.config.schema import Config
from pipeline.generation.shards import EngineIdentity
from pipeline.model_settings import published_settings

# The class that keeps forbidden tokens out, by name: vLLM loads it where the model runs.
FORBID = "actors.generation.vllm_forbidden_tokens:ForbidTokens"

# Tokens of prompts that one step takes at most on a CPU, unless one prompt alone needs more.
PREFILL_TOKENS = 8192


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is built.

    max_model_len: tokens of prompt and response at most. max_sequences: requests in flight at most.
    kv_cache_gib: key-value cache of a CPU engine; gpu_memory_utilization: share of a GPU taken.
    block_size: tokens of a block of that cache, what a prefix is shared by; None: vLLM's default.
    threads: compute threads of a CPU engine. deterministic: results are a function of one
    `generate` call alone, to the last bit. trust_remote_code: whether the run lets code of a
    model's own be run; whether it is, the model's hash says.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    max_model_len: int = 4096
    max_sequences: int = 256
    tensor_parallel_size: int = 1
    kv_cache_gib: float = 1.0
    gpu_memory_utilization: float = 0.9
    block_size: int | None = 32
    threads: int = 2
    deterministic: bool = False
    trust_remote_code: bool = False

    def identity(self) -> EngineIdentity:
        """What of the engine can change a sample; needs no import of vLLM."""
        return EngineIdentity(
            name="vllm",
            version=vllm_version(),
            precision=self.precision,
            tensor_parallel_size=self.tensor_parallel_size,
            max_model_len=self.max_model_len,
        )

    def environment(self) -> dict[str, str]:
        """Environment variables of a process that holds such an engine, set before it imports
        torch. Inside: the engine runs in the actor's own process, so nothing outlives the actor;
        TorchDynamo is off on a CPU, where vLLM would compile one tiny sampling function with a C++
        compiler that the machine may not have."""
        on_cpu = runs_on_cpu()
        return {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **(
                {"OMP_NUM_THREADS": str(self.threads), "TORCHDYNAMO_DISABLE": "1"} if on_cpu else {}
            ),
            **({"VLLM_BATCH_INVARIANT": "1"} if self.deterministic and not on_cpu else {}),
        }


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is the CPU build."""
    return _installed("vllm-cpu") is not None


def vllm_version() -> str:
    """Version of the installed vLLM, marked where it is the CPU build."""
    on_cpu = _installed("vllm-cpu")
    return f"{on_cpu}+cpu" if on_cpu is not None else _installed("vllm") or "none"


def start_llm(folder: Path, settings: EngineSettings, forbidden: Sequence[int]) -> Any:
    """A vLLM that samples from the policy in `folder`."""
    os.environ.update(settings.environment())
    from vllm import LLM

    return LLM(
        model=str(folder),
        runner="generate",
        logprobs_mode="processed_logprobs",
        logits_processors=[FORBID],
        additional_config={"forbidden_token_ids": list(forbidden)},
        **common_options(settings, folder, chunked_prefill=not runs_on_cpu()),
    )


def runs_as(llm: Any) -> str:
    """What computes in a running vLLM: its version, and which of its two model runners."""
    runner = 2 if llm.llm_engine.vllm_config.use_v2_model_runner else 1
    return f"vLLM {vllm_version()}, model runner V{runner}"


def reload_llm(llm: Any, folder: Path) -> None:
    """Put the weights in `folder` into a running vLLM, in place. Its caches are the caller's."""
    llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
    if runs_on_cpu():
        llm.apply_model(_pack_embeddings_again)


def _pack_embeddings_again(model: Any) -> None:
    """On a CPU, layers compute with a packed copy of their weights, and vLLM 0.32 makes a new copy
    only for layers that the checkpoint names. An output head tied to the embedding is not named:
    it would go on with the last policy's weights, while everything before it is new."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for layer in model.modules():
        if isinstance(layer, VocabParallelEmbedding) and hasattr(layer, "cpu_linear"):
            layer.quant_method.process_weights_after_loading(layer)


def common_options(
    settings: EngineSettings, folder: Path, *, chunked_prefill: bool
) -> dict[str, Any]:
    """Options of every vLLM of this project, whatever it is for.

    chunked_prefill: whether a prompt may be computed in several steps. On a CPU seeded requests
    crash with it; without it a prompt must fit a step.
    """
    how = published_settings(folder, settings.trust_remote_code)
    options: dict[str, Any] = {
        "dtype": settings.precision,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.max_sequences,
        "tensor_parallel_size": settings.tensor_parallel_size,
        # vLLM shares the state of a recurrent layer only where it can end a step at a block.
        "enable_prefix_caching": chunked_prefill or not is_recurrent(folder),
        "enable_chunked_prefill": chunked_prefill,
        # Else a model that takes videos has memory set aside for one.
        "limit_mm_per_prompt": {"video": 0},
        "trust_remote_code": how.trust_remote_code,
        "mm_processor_kwargs": processor_options(how),
        # Rendered prompts are kept by their user, who knows for how long.
        "mm_processor_cache_gb": 0,
        "seed": 0,
    }
    if settings.tensor_parallel_size > 1:
        # Inside a placement group vLLM would otherwise ask for a bundle of one GPU for each part;
        # the actor has one bundle that holds all of them.
        options["distributed_executor_backend"] = "mp"
    if settings.block_size is not None:
        options["block_size"] = settings.block_size
    if not runs_on_cpu():
        return {**options, "gpu_memory_utilization": settings.gpu_memory_utilization}
    return {
        **options,
        "kv_cache_memory_bytes": int(settings.kv_cache_gib * 2**30),
        "enforce_eager": True,
        "max_num_batched_tokens": max(PREFILL_TOKENS, settings.max_model_len),
    }


def tensor_bytes(tree: Any) -> int:
    """Bytes of the tensors anywhere inside nested mappings, sequences and vLLM's field elements."""
    return sum(leaf.nbytes for leaf in _leaves(tree) if hasattr(leaf, "nbytes"))


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from _leaves(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _leaves(value)
    elif hasattr(tree, "data") and not hasattr(tree, "nbytes"):
        yield from _leaves(tree.data)
    else:
        yield tree


def engine_settings(config: Config) -> EngineSettings:
    """How this run's engines are built: `generate.max_model_len` is a limit, and no engine is built
    for more tokens than its model reads."""
    generate = config.generate
    most = most_positions(Path(config.warmup.checkpoint or config.policy.path))
    return EngineSettings(
        precision=generate.precision,
        max_model_len=min(generate.max_model_len, most or generate.max_model_len),
        max_sequences=generate.max_sequences,
        tensor_parallel_size=generate.tensor_parallel_size,
        kv_cache_gib=generate.kv_cache_gib,
        gpu_memory_utilization=generate.gpu_memory_utilization,
        threads=config.cluster.engine_threads,
        deterministic=config.run.deterministic,
        trust_remote_code=config.policy.trust_remote_code,
    )
