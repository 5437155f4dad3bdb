"""Model folders checked before anything starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from actors.generation.architectures import check_architecture
from actors.generation.engine_settings import engine_settings
from actors.generation.vllm_check import check_served
from actors.model.family_checks import check_family
from actors.model.processor import load_processor
from actors.model.weights_check import check_weights
from pipeline.config.schema import Config
from pipeline.errors import BadConfig, BadModel, download_hint
from pipeline.training.freezing import frozen_problem


def check_models(config: Config) -> None:
    """Refuse a model folder that cannot be used, before anything is started.

    Raises:
        BadModel: naming the folder or file and what is missing, truncated or does not fit.
        BadConfig: parameters are to be frozen that the policy does not have.
    """
    for model in filter(None, (config.policy.path, config.warmup.checkpoint, config.prm.path)):
        check_weights(Path(model))
    here = config.cluster.address is None  # a cluster's head may lack what vLLM needs to start
    for model in filter(None, (config.policy.path, config.warmup.checkpoint)):
        processor = load_processor(Path(model), settings=config.model_settings)
        check_family(processor, config.learn.micro_batch)
        check_architecture(Path(model))
        if processor.settings.trust_remote_code and here:
            check_served(processor, headed=_serves_prm(config) and config.prm.path is None)
    if config.select.reward != "prm":
        return
    policy = Path(config.warmup.checkpoint or config.policy.path)
    trust = config.model_settings.of(policy).trust_remote_code
    if config.prm.path is None:
        from actors.model.value_head import HEAD, parameter_names

        names = [*parameter_names(policy, trust), HEAD]
        problem = frozen_problem(names, config.prm.frozen, HEAD)
        if problem is not None:
            raise BadConfig(f"prm.frozen, of the policy {policy}: {problem}")
        if config.prm.log_likelihood:
            from actors.model.likelihood import token_head

            token_head(policy, trust)
    else:
        _check_given_prm(config, policy, Path(config.prm.path))


def _serves_prm(config: Config) -> bool:
    return config.select.reward == "prm" and config.prm.engine == "vllm"


def _check_given_prm(config: Config, policy: Path, prm: Path) -> None:
    """Refuse a process reward model of the user's that cannot be served beside the policy."""
    from actors.model.prm_folder import check_prm
    from actors.scoring.scorer import tag_words

    if not prm.is_dir():
        hint = download_hint(str(prm), "model", "prm.path")
        raise BadModel(f"prm.path = {prm} is not a folder{hint}")
    most = engine_settings(config).max_model_len
    with tempfile.TemporaryDirectory() as scratch:
        check_prm(
            prm,
            policy,
            tag_words(config),
            Path(scratch),
            max_model_len=most,
            settings=config.model_settings,
        )
    here = config.cluster.address is None
    if here and _serves_prm(config) and config.model_settings.of(prm).trust_remote_code:
        check_served(load_processor(prm, settings=config.model_settings), headed=True)
