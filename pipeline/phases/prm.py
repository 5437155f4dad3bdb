"""The PRM phase: a process reward model built and judged, or a ready one published.

    warm-up policy ──► sample questions ──► annotate: values of steps ──► train ──► judge ──► used?
    or, with prm.path: a ready one ───────────────────────────────────────────────────────► used

It is built once, before the first iteration, and frozen afterwards (paper section 1). A PRM that
the gate does not pass is not used, unless `prm.use_anyway` says so: what would have been chosen by
its scores is then chosen by what costs nothing (`select.otherwise`), the same amount of data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.generation.slices import shuffled
from pipeline.phases.lineage import identity_of
from pipeline.phases.steps import Annotate, JudgePrm, PublishFolder, SampleShards, Step, Train
from pipeline.refs import PRM_ROLLOUTS
from pipeline.run.spec import RunSpec
from pipeline.run.state import State
from pipeline.selection.pseudo_labels import Voting
from pipeline.selection.rules import Rule
from pipeline.stages.score import Scoring
from pipeline.training.job import LearnJob, PrmLearning

ROLLOUTS, TRAINED, NAME = PRM_ROLLOUTS, "prm/0", "prm"

JUDGE = "prm/judge"
"""The stage of the gate."""


def ready(state: State, spec: RunSpec) -> Sequence[Step]:
    """The next step towards a judged PRM; none where the run has no use for one."""
    prm = spec.config.prm
    if spec.config.select.reward != "prm" or NAME in state.policies:
        return ()
    if prm.path is not None:
        return (PublishFolder("prm/prepare", NAME, prm.path, spec.config.model_settings),)
    sampling = _rollouts(state, spec)
    if ROLLOUTS not in state.closed:
        return (sampling,)
    if state.labels is None:
        return (Annotate("prm/annotate", ROLLOUTS, state.policies["warmup"]),)
    job = _job(state, spec)
    if not state.job_done(TRAINED) or state.jobs[TRAINED].key not in ("", job.key):
        # Also again, where labels were lost and came out otherwise.
        return (Train("prm/learn", job),)
    return (JudgePrm(JUDGE, sampling, state.policies[TRAINED]),)


def _rollouts(state: State, spec: RunSpec) -> SampleShards:
    """What steps are labelled of: responses of the warm-up policy to the question alone."""
    config, policy = spec.config, state.policies["warmup"]
    drawn = shuffled(spec.pool, config.run.seed, "prm")[: config.prm.queries]
    sampling = spec.sampling(config.prm.samples, config.prm.temperature)
    asked = [spec.by_hash[item] for item in drawn]
    specs = spec.shard_specs(ROLLOUTS, asked, policy, sampling)
    return SampleShards("prm/generate", ROLLOUTS, specs, policy, None)


def _job(state: State, spec: RunSpec) -> LearnJob:
    prm, labels = spec.config.prm, state.labels
    assert labels is not None
    batches = -(-labels["trained"] // spec.config.learn.batch_size)
    return LearnJob(
        name=TRAINED,
        start=None,
        policy=state.policies[prm.start],
        data=(labels["path"],),
        seed=spec.config.run.seed,
        epochs=prm.epochs,
        max_steps=None,
        learning_rate=prm.learning_rate,
        schedule="linear",
        schedule_steps=max(1, batches * prm.epochs),
        prm=PrmLearning(prm.labels, prm.loss, prm.frozen, prm.log_likelihood),
        **identity_of(state, spec.config),
    )


# --- its use -------------------------------------------------------------------------------------


def prm_in_use(state: State) -> bool:
    """Whether a PRM was published and (if it was judged) may be used."""
    return NAME in state.policies and (state.prm is None or bool(state.prm["used"]))


def evolve_rule(state: State, spec: RunSpec) -> Rule:
    """What evolution keeps; where the PRM that would choose it is not used, what
    `select.otherwise` says ranks in its place, which is the same amount of data."""
    rule = spec.rule
    if not rule.by_prm or prm_in_use(state):
        return rule
    if rule.name == "threshold":
        return replace(rule, name="all_correct")
    if spec.config.select.otherwise == "random":
        return replace(rule, name="random_k")
    return replace(rule, by="logprob")


def evolve_scoring(state: State, spec: RunSpec) -> Scoring | None:
    """What is scored of a training shard: nothing where nothing is chosen by it."""
    prm = spec.config.prm
    if not prm_in_use(state):
        return None
    if prm.scoring == "all":
        return Scoring(state.policies[NAME], "all", prm.aggregate)
    if not spec.rule.by_prm:
        return None
    return Scoring(state.policies[NAME], "right", prm.aggregate)


def unlabelled_vote(state: State, spec: RunSpec) -> Voting | None:
    """How the samples of unlabelled queries vote; None where their answers are used (oracle). In
    place of a PRM that is not used, the log-likelihood counts, or each sample alike, as
    `select.otherwise` says."""
    unlabelled = spec.config.unlabelled
    if unlabelled.use != "pseudo":
        return None
    by = unlabelled.vote
    if by == "prm" and not prm_in_use(state):
        by = "majority" if spec.config.select.otherwise == "random" else "logprob"
    return Voting(by, unlabelled.least_share)


def unlabelled_scoring(state: State, spec: RunSpec) -> Scoring | None:
    """What is scored of a shard of unlabelled queries: nothing where nobody reads it."""
    vote, scoring = unlabelled_vote(state, spec), evolve_scoring(state, spec)
    if vote is None or vote.by != "prm" or scoring is not None:
        return scoring
    return Scoring(state.policies[NAME], "right", spec.config.prm.aggregate)


def evaluation_scoring(state: State, spec: RunSpec, split: str) -> Scoring | None:
    """What is scored of an evaluation's samples: validation's, unless only what is needed is."""
    prm = spec.config.prm
    wanted = prm.scoring != "needed" and split == spec.config.data.validation
    if not wanted or not prm_in_use(state):
        return None
    return Scoring(state.policies[NAME], "all", prm.aggregate)
