"""The configuration of a run, field by field: this file is the manual.

Every field says its unit and its range. Unknown keys are refused. A field's *resume kind* says what
happens when a run is started again with another value of it:

* meaning (default): the run would be another run, so it is refused;
* noted: allowed and logged (other paths to the same content; numerics that are no longer bit
  for bit the same);
* free: allowed silently, because nothing that is made depends on it.

`pipeline.config.load` loads, checks, hashes and compares; nothing here looks at the machine or the
data.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.answer_shapes import Shape
from pipeline.config.learning import Evolve, Learn
from pipeline.config.section import (
    ADDED,
    FREE,
    NUMERICS,
    SAME_CONTENT,
    Precision,
    Section,
    Temperature,
)
from pipeline.config.selecting import Select, Unlabelled
from pipeline.model_settings import ImageBackend, ModelSettings
from pipeline.prompts import QUESTION_TEMPLATE, WARMUP_TEMPLATE, PromptTemplates

VISION = ("*vision*", "*visual*", "*vpm*", "*resampler*")
"""The vision tower, as it is called in SmolVLM, Idefics, InternVL, LLaVA, Phi and Gemma (vision),
Qwen-VL and GLM-V (visual), MiniCPM-V (vpm); together they mean the tower without its connector."""

CONNECTOR = "connector"
"""What joins the tower to the language model, whatever a family calls it."""

SearchedBy = Literal["reward_pass_2", "pass_at_k"]
DecideBy = Literal["argmax", "sound"]

CUSTOM_RESOURCE = r"^[A-Za-z][A-Za-z0-9_.-]{0,62}$"
"""A name that Ray takes for a resource."""


class Run(Section):
    """Which run this is."""

    name: str = Field(
        default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", json_schema_extra=FREE
    )
    """Name of the run: its ledger is runs/<name>/ in the store, its outputs are <out>/<name>/."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Redoes everything that is drawn: warm-up samples, slices, sampling, order of training."""
    out: str = Field(default="out", json_schema_extra=FREE)
    """Folder for what people read (summary.json, TensorBoard) and for the default store."""
    deterministic: bool = Field(default=False, json_schema_extra=NUMERICS)
    """One shard at a time per engine, fixed order, fixed threads: a run that was killed ends with
    the same bits as one that was not. Slower."""
    console: Literal["auto", "rich", "plain"] = Field(default="auto", json_schema_extra=FREE)
    """Progress bars, or plain lines; auto: bars on a terminal only."""
    rules: Literal[1, 2] = 2
    """Version of the method's decisions. 1 is for runs that began before there was another: their
    schedule is counted in optimizer steps, labelling stops early inside correct responses, the gate
    looks across questions, truncated responses count in Pass@K, the control sees the warm-up's
    queries only, and every pass over the pool has one order."""


class Data(Section):
    """Which questions."""

    path: str = Field(default="digits", json_schema_extra=SAME_CONTENT)
    """`digits` (built in), a data file (.jsonl, .json, .tsv, .parquet), or a folder of
    <split>.jsonl|parquet; in our own form or a published one (docs/data.md)."""
    format: str = Field(default="auto", json_schema_extra=SAME_CONTENT | ADDED)
    """Form of the data files: found by their columns, `own`, or the name of a published one."""
    split: Literal["given", "mstar"] = Field(default="given", json_schema_extra=ADDED)
    """given: the data's own splits, else validation and test are set aside by image; mstar: the
    paper's (half labelled; 250 validation and 750 test from the other half, by image)."""
    split_seed: int = Field(default=0, ge=0, lt=2**31, json_schema_extra=ADDED)
    """Redraws the splits where the data bring none; another seed is another data set."""
    max_bad_rows: int = Field(default=0, ge=0, json_schema_extra=ADDED)
    """Rows that may be left out because they cannot be used; more of them stop the run."""
    train: str = "train"
    """Split of the pool that warm-up and evolution draw from."""
    validation: str = "validation"
    """Split that chooses policies; disjoint from train and test by image."""
    test: tuple[str, ...] = ("test",)
    """Splits measured at base, warm-up, control and final only; never consulted. One that the data
    lacks is left out."""
    train_queries: int | None = Field(default=None, ge=1)
    """Queries of the pool used at most, the same ones for every seed; null: all."""
    validation_queries: int | None = Field(default=None, ge=1)
    """Queries of the validation split used at most; null: all."""
    test_queries: int | None = Field(default=None, ge=1)
    """Queries of each test split used at most; null: all."""
    unlabelled_share: float = Field(default=0.0, ge=0.0, lt=1.0, json_schema_extra=ADDED)
    """Share of the labelled pool whose answers are hidden, by image, the same for every seed of a
    run: they join the unlabelled pool, with rows that say themselves that they are unlabelled."""
    unlabelled: str | None = Field(default=None, json_schema_extra=SAME_CONTENT | ADDED)
    """A second data file or folder (of one in splits, its training split), whose questions join the
    unlabelled pool; their answers are hidden, where there are any. null: none."""
    max_image_pixels: int = Field(default=20_000_000, ge=1)
    """Pixels above which an image is refused as bad data."""
    max_image_tokens: int | None = Field(default=None, ge=1, json_schema_extra=ADDED)
    """Tokens of one image at most, in engine, learner and PRM alike: a larger picture is made
    smaller by the model's own processor, in the way of its family (docs/families.md); null: what
    the processor's files say. Part of the policy, and so of all that it samples."""


class Policy(Section):
    """Which model."""

    path: str = Field(default="assets/digits-base", json_schema_extra=SAME_CONTENT)
    """Local folder of the base policy, as `from_pretrained` takes it: safetensors, config,
    tokenizer, processor, chat template."""
    trust_remote_code: bool = Field(default=False, json_schema_extra=FREE | ADDED)
    """Run the code that lies in a model's folder (`auto_map` in its configuration), of this policy,
    of warmup.checkpoint and of prm.path; false: refuse a model that cannot be used without. Never
    taken from a store: each command that reads such a model says it again."""
    image_backend: ImageBackend = Field(default="pil", json_schema_extra=ADDED)
    """What resizes and normalises pictures, in engine, learner and PRM alike: pil, or torchvision's
    processors, which are faster and make slightly other pixels. A family that has only one of the
    two uses that, and says so."""


class Prompt(Section):
    """What a model is asked, and in which shapes its answer is read."""

    question: str = Field(default=QUESTION_TEMPLATE, json_schema_extra=ADDED)
    """What a question is asked with; holds {question}. A model that was not trained on our format
    has to be asked for it: steps between blank lines, then the answer heading."""
    warmup: str = WARMUP_TEMPLATE
    """What a warm-up chain is asked with; holds {question} and {gold}. The chain is trained on
    under `question`."""
    system: str = Field(default="", json_schema_extra=ADDED)
    """Text of a system turn before every prompt; "": none, or what the chat template puts there."""
    shapes: tuple[Shape, ...] = Field(default=(), json_schema_extra=ADDED)
    """Shapes besides ours ("# Answer", a blank line, the answer) in which an answer is read:
    heading, tag, boxed, label, sentence (docs/grading.md). Part of the grader's version."""
    trained: Literal["any", "ours"] = Field(default="any", json_schema_extra=ADDED)
    """Which correct responses may be trained on: of any shape that is read, so that the policy
    learns the shapes it is sampled in; or of ours only."""

    @property
    def templates(self) -> PromptTemplates:
        """What prompts are rendered from."""
        return PromptTemplates(self.question, self.warmup, self.system)


class Warmup(Section):
    """The first policy that reasons: trained on the base's own gold-conditioned chains."""

    checkpoint: str | None = Field(default=None, json_schema_extra=SAME_CONTENT)
    """Model folder of a ready warm-up; set: sampling and training of the warm-up are skipped."""
    queries: int | None = Field(default=None, ge=1)
    """Labelled queries that chains are sampled for, at most; null: the whole pool."""
    samples: int = Field(default=1, ge=1, le=1024)
    """Chains sampled for each of them."""
    temperature: float = Field(default=1.0, ge=0.0, le=5.0)
    """Sampling temperature of the chains."""
    keep: int | None = Field(default=None, ge=1)
    """Correct chains kept of a query at most, drawn at random; null: all."""
    learning_rate: float = Field(default=1e-6, gt=0.0, lt=1.0)
    """Peak learning rate of the warm-up's own optimizer (the evolution starts a new one)."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate; linear and cosine fall to 0 over `epochs`."""
    epochs: int = Field(default=1, ge=1, le=1000)
    """Epochs at most."""
    epochs_per_evaluation: int = Field(default=1, ge=1)
    """Epochs between two greedy evaluations on the validation split."""
    flat_evaluations: int = Field(default=2, ge=1)
    """Stop once this many evaluations in a row have not raised validation greedy."""
    flat_gain: float = Field(default=0.01, ge=0.0, lt=1.0)
    """Rise of validation greedy, as a share of queries, that counts as one."""


class Prm(Section):
    """The process reward model that re-ranks correct responses; see select.reward and docs/prm.md.

    Without `path` it is built after the warm-up, from the warm-up policy: rollouts, Monte-Carlo
    values of their steps, training, and a gate on questions that were set aside by image.
    """

    path: str | None = Field(default=None, json_schema_extra=SAME_CONTENT)
    """Model folder of a ready PRM with the policy's tokenizer and processor; null: build one."""
    kind: Literal["head", "tag"] = "head"
    """Of `path`. head: a `score.weight` of shape (1, hidden); tag: a model that answers `good` or
    `bad` at a step tag."""
    tag: str = " \u043a\u0438"
    """Text of the step tag, for kind tag."""
    good: str = "+"
    """Answer at the tag of a correct step; one token."""
    bad: str = "-"
    """Answer at the tag of a wrong step; one token."""
    aggregate: Literal["min", "mean", "product", "last"] = "min"
    """R_p: how the step scores (probabilities) become the reward of a response."""
    scoring: Literal["needed", "validation", "all"] = "needed"
    """needed: distinct correct responses of a training shard; validation: besides, every distinct
    response of the validation samples, for Reward-Pass@2 after each iteration; all: every distinct
    response of training shards too. (Dynamics and searches score what they sample by themselves.)
    """
    engine: Literal["vllm", "transformers"] = "vllm"
    """What computes the scores; transformers is for models that vLLM does not serve: nothing is
    reused there."""
    scorers: int = Field(default=1, ge=1, json_schema_extra=FREE)
    """Scoring engines at most; each asks for what a generation engine does."""
    use_anyway: bool = False
    """Use a PRM that the gate does not pass."""
    least_auc_step: float = Field(default=0.6, ge=0.0, le=1.0)
    """Gate: AUC between right and wrong steps of a question, on held-out labels, below which it is
    not used; its interval must lie above chance (0.5) besides."""
    least_auc_within: float = Field(default=0.55, ge=0.0, le=1.0)
    """Gate: agreement of the reward with the labels on which of two correct responses to a question
    is worth more, below which it is not used; its interval must lie above chance (0.5) besides.
    Labels that cannot show it (fewer than 20 such questions, or one half of their completions does
    not agree with the other) let no PRM pass."""
    queries: int | None = Field(default=None, ge=2)
    """Labelled queries that the warm-up policy is sampled on for labels, at most; null: the whole
    pool."""
    samples: int = Field(default=8, ge=2, le=1024)
    """Responses sampled to each of them."""
    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """T of these responses and of the completions."""
    pairs: int = Field(default=1, ge=1)
    """Correct responses, and as many wrong ones, labelled of a query at most."""
    held_out: float = Field(default=0.1, gt=0.0, lt=1.0)
    """Share of the queries that the gate measures on, set aside by image."""
    held_out_responses: int = Field(default=4, ge=2)
    """Correct responses labelled of a held-out query at most, besides one wrong one."""
    completions: int = Field(default=16, ge=1, le=1024)
    """Completions sampled from the end of each step."""
    early_stop: bool = True
    """In a wrong response complete nothing after a step from which no completion reached the gold
    answer: what follows is trained towards 0, told apart as imputed. Never inside a correct one."""
    labels: Literal["soft", "hard"] = "soft"
    """soft: the share of completions that reached it; hard: 1 where any did."""
    shuffle_labels: bool = Field(default=False, json_schema_extra=ADDED)
    """Train on the values of other steps, drawn at random: a control that a PRM has to beat. The
    gate still measures on the held-out labels as they are, so it needs use_anyway to be used."""
    loss: Literal["bce", "mse"] = "bce"
    """Binary cross-entropy or squared error against the label."""
    start: Literal["warmup", "base"] = Field(default="warmup", json_schema_extra=ADDED)
    """What it is trained from: the warm-up policy, whose responses it scores, or the base model,
    where the warm-up has forgotten how to judge a statement (docs/prm.md)."""
    learning_rate: float = Field(default=2e-6, gt=0.0, lt=1.0)
    """Peak learning rate of its own optimizer; linear to 0 over its steps."""
    epochs: int = Field(default=1, ge=1, le=100)
    """Epochs over the labelled responses."""
    frozen: tuple[str, ...] = VISION
    """Shell patterns of parameter names that stay as they are, each of at least one; the default is
    the vision tower under its name in any family, and one of the names must be there. The word
    `connector` besides freezes what joins the tower to the language model, too."""
    log_likelihood: bool = False
    """Let the head see, besides the hidden state at a step's end, the log-likelihood of the
    response so far under the model itself (one more weight). For a model too small for its last
    hidden state to show a slip; costs the token logits of what is scored."""


class Generate(Section):
    """Sampling, and the engines that do it."""

    samples: int = Field(default=16, ge=1, le=1024)
    """K: samples of each query per iteration."""
    temperature: Temperature = 1.0
    """T of training rollouts; with explore.every the one that the first search begins with."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus share; 1.0 samples from the whole distribution."""
    max_new_tokens: int = Field(default=1024, ge=1)
    """Tokens of a response at most; a response truncated here is never selected."""
    max_model_len: int = Field(default=4096, ge=2)
    """Tokens of prompt and response together at most, image tokens included."""
    precision: Precision = "bfloat16"
    """Weights and activations of the engine."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs that one engine spans."""
    shard_queries: int = Field(default=16, ge=1)
    """Queries in one shard; all K samples of a query are in the same shard."""
    engines: int = Field(default=1, ge=1, json_schema_extra=FREE)
    """Engines at most; there are as many as the shards to do can use. See cluster.min_engines."""
    lookahead: int = Field(default=4, ge=1, json_schema_extra=FREE)
    """Shards dispatched beyond the first unfinished one of the plan at most."""
    max_sequences: int = Field(default=256, ge=1, json_schema_extra=NUMERICS)
    """Requests in flight in one engine at most."""
    kv_cache_gib: float = Field(default=1.0, gt=0.0, json_schema_extra=FREE)
    """GiB of key-value cache of a CPU engine."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0.0, le=1.0, json_schema_extra=FREE)
    """Share of a GPU's memory that an engine on GPUs takes."""
    start_s: float = Field(default=1800.0, gt=0.0, json_schema_extra=FREE)
    """Seconds without progress of an engine's start, once there is room for it, after which it is
    replaced: it fetches the policy, loads it and, on GPUs, compiles."""
    hang_s: float = Field(default=600.0, gt=0.0, json_schema_extra=FREE)
    """Seconds without progress of its work after which an engine is replaced."""
    attempts: int = Field(default=5, ge=1, json_schema_extra=FREE)
    """Times a shard is tried on the fleet before it is given up, and losses in a row of every
    engine, with nothing done in between, before the run stops."""
    max_bad_queries: int = Field(default=0, ge=0, json_schema_extra=FREE)
    """Queries that may fail for a reason of their own (an image that cannot be read, a prompt that
    is too long, a gold answer that cannot be compared with); they are said and left out."""


class Grade(Section):
    """Comparing answers."""

    processes: int | None = Field(default=None, ge=1, json_schema_extra=FREE)
    """Grading processes, beside the driver; null: half of that machine's CPUs, 2 at least."""
    deadline_s: float = Field(default=5.0, gt=0.0)
    """Seconds of processor time for one answer (a busy machine makes no difference), rounded up to
    whole ones; after that its outcome is `timeout`."""
    start_s: float = Field(default=600.0, gt=0.0, json_schema_extra=FREE)
    """Seconds that the process which grades, selects and reads shards beside the driver has to
    start, and each grading process of it."""
    hang_s: float = Field(default=300.0, gt=0.0, json_schema_extra=FREE)
    """Seconds without a sign of life after which one of these processes is replaced: it was
    stopped, or waits for a disk that is gone."""


class Evaluate(Section):
    """Evaluating on the validation and test splits."""

    samples: int = Field(default=16, ge=0, le=1024)
    """K of Pass@K on the validation split after each iteration; 0: greedy only."""
    test_samples: int = Field(default=0, ge=0, le=1024)
    """K of Pass@K on the test splits; 0: greedy only."""
    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """T of the samples behind Pass@K."""
    shard_queries: int = Field(default=64, ge=1)
    """Queries in one shard of an evaluation."""


class Explore(Section):
    """The temperature of the iterations, searched for on validation questions every few of them
    (the paper's automatic balancing, section 5); static by default. See docs/method.md."""

    every: int = Field(default=0, ge=0, json_schema_extra=ADDED)
    """Iterations between two searches, the first before the first iteration; 0: none, and T is
    generate.temperature."""
    grid: tuple[Temperature, ...] = Field(
        default=(0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6),
        json_schema_extra=ADDED,
    )
    """Temperatures that are compared with the one in force, which is always among them."""
    nearest: int | None = Field(default=None, ge=2, json_schema_extra=ADDED)
    """Of the grid, how many temperatures nearest to the last choice a later search compares; null:
    all."""
    by: SearchedBy = Field(default="reward_pass_2", json_schema_extra=ADDED)
    """What is to be maximal. reward_pass_2: share of questions with a correct response among the
    two of K that rank highest by the reward, as in selection: R_p of the PRM, or without one what
    select.by or select.otherwise ranks by. pass_at_k: with any correct one among K."""
    mode: DecideBy = Field(default="sound", json_schema_extra=ADDED)
    """argmax: the highest figure, as in the paper. sound: stay, unless another is better by more
    than the comparison can be wrong by, for all of the grid together."""
    gain: float = Field(default=0.1, gt=0.0, lt=1.0, json_schema_extra=ADDED)
    """Of mode sound: the smallest gain, a share of questions, that a search should see four times
    in five; too few validation questions for it are refused."""
    samples: int = Field(default=16, ge=1, le=1024, json_schema_extra=ADDED)
    """K: samples of each validation question at each temperature."""
    queries: int | None = Field(default=None, ge=2, json_schema_extra=ADDED)
    """Validation questions that are sampled, at most; null: all."""


class Dynamics(Section):
    """What a policy can do beyond its greedy answer, across temperatures, on validation questions
    (the paper's section 5): Pass@K, head-room, Reward-Pass@k, diversity, length, entropy."""

    every: int = Field(default=0, ge=0, json_schema_extra=ADDED)
    """Iterations between two evaluations, the first of the warm-up policy; 0: none."""
    grid: tuple[Temperature, ...] = Field(
        default=(0.5, 0.7, 1.0, 1.2, 1.5), min_length=1, json_schema_extra=ADDED
    )
    """Temperatures. What a search samples at the same one with the same samples and queries is
    sampled once."""
    samples: int = Field(default=16, ge=2, le=1024, json_schema_extra=ADDED)
    """K: samples of each question at each temperature."""
    queries: int | None = Field(default=None, ge=2, json_schema_extra=ADDED)
    """Validation questions that are sampled, at most; null: all."""


class Store(Section):
    """Where objects lie."""

    url: str | None = Field(default=None, json_schema_extra=FREE)
    """A folder or s3://bucket/prefix, which every node can reach; null: <out>/<name>/store."""
    patience_s: float = Field(default=300.0, ge=0.0, json_schema_extra=FREE)
    """Seconds that a store which does not answer is asked again, each pause being said, before
    whoever asked gives up: an engine's shard is then tried again, and the driver stops. Shorter
    than generate.hang_s and learn.hang_s: waiting for the store is no progress."""
    lease_s: float = Field(default=15.0, gt=0.0, json_schema_extra=FREE)
    """Seconds that the lease of a driver which was killed is watched until the next one has the
    run; a living driver renews it three times in that time."""


class Cluster(Section):
    """What roles ask of Ray. On a machine too small for all, they take turns."""

    address: str | None = Field(default=None, json_schema_extra=FREE)
    """Ray address to join; null: a private one on this machine."""
    join_s: float = Field(default=8.0, gt=0.0, json_schema_extra=FREE)
    """Seconds that the cluster at `address` has to accept a connection, and again to answer."""
    lock_s: float = Field(default=60.0, gt=0.0, json_schema_extra=FREE)
    """Seconds that a busy cluster has to say who drives a run, where the store cannot guarantee
    that it is one driver; then this one goes on and asks again at its next write."""
    node_cache: str | None = Field(default=None, json_schema_extra=FREE)
    """Folder on each node's own disk where policies and checkpoints are kept by hash, for every run
    and driver of this user; null: the node's temporary folder. It holds the newest few."""
    cpus_per_engine: float = Field(default=1.0, ge=0.0, json_schema_extra=FREE)
    """Logical CPUs of one engine."""
    gpus_per_engine: float = Field(default=0.0, ge=0.0, json_schema_extra=FREE)
    """GPUs of one engine."""
    cpus_per_rank: float = Field(default=1.0, ge=0.0, json_schema_extra=FREE)
    """Logical CPUs of one learner rank."""
    gpus_per_rank: float = Field(default=0.0, ge=0.0, json_schema_extra=FREE)
    """GPUs of one learner rank."""
    engine_resource: str | None = Field(
        default=None, pattern=CUSTOM_RESOURCE, json_schema_extra=FREE
    )
    """Custom resource of which each engine and scorer takes one, so that they run on nodes of their
    kind only, spot ones, say; null: any."""
    rank_resource: str | None = Field(default=None, pattern=CUSTOM_RESOURCE, json_schema_extra=FREE)
    """Custom resource of which each rank takes one, so that ranks run on nodes of their kind only,
    on-demand ones, say (`ray start --resources='{"learner": 8}'`, or a node group's); null: any."""
    engine_threads: int = Field(default=2, ge=1, json_schema_extra=NUMERICS)
    """Compute threads of a CPU engine."""
    rank_threads: int = Field(default=2, ge=1, json_schema_extra=NUMERICS)
    """Compute threads of one CPU rank."""
    min_engines: int | None = Field(default=None, ge=0, json_schema_extra=FREE)
    """Engines kept without work, once they have had some; null: generate.engines on a private Ray,
    0 on a cluster, whose nodes then go away while the learner trains."""
    min_scorers: int | None = Field(default=None, ge=0, json_schema_extra=FREE)
    """Scorers kept without work; null: prm.scorers on a private Ray, 0 on a cluster."""
    idle_s: float = Field(default=300.0, ge=0.0, json_schema_extra=FREE)
    """Seconds without work after which an engine or scorer above that is given back."""
    turn_s: float = Field(default=60.0, ge=0.0, json_schema_extra=FREE)
    """Seconds that a role waits for room (an autoscaler may bring nodes) before the others give
    back theirs as soon as they have nothing under way."""
    heartbeat_s: float = Field(default=2.0, gt=0.0, json_schema_extra=FREE)
    """Seconds between two questions to an engine or scorer how far it is."""
    unreachable_s: float = Field(default=60.0, ge=0.0, json_schema_extra=FREE)
    """Seconds that an engine or scorer that cannot be reached is waited for while the cluster does
    not know its node to be dead; then it is replaced, as one that died by itself."""
    backoff_s: float = Field(default=1.0, gt=0.0, json_schema_extra=FREE)
    """Seconds from the loss of an engine, scorer or learner until the next one starts, doubled with
    every loss in a row."""
    backoff_most_s: float = Field(default=60.0, gt=0.0, json_schema_extra=FREE)
    """Seconds of that pause at most."""
    most_cpus: float | None = Field(default=None, gt=0.0, json_schema_extra=FREE)
    """CPUs that the cluster can ever have: what needs more is refused at once. null: what the
    autoscaler says; where there is none, nothing is refused and a role waits for room."""
    most_gpus: float | None = Field(default=None, gt=0.0, json_schema_extra=FREE)
    """GPUs that the cluster can ever have."""


class Config(Section):
    """A whole run."""

    run: Run = Run()
    data: Data = Data()
    policy: Policy = Policy()
    prompt: Prompt = Prompt()
    warmup: Warmup = Warmup()
    prm: Prm = Prm()
    generate: Generate = Generate()
    grade: Grade = Grade()
    select: Select = Select()
    unlabelled: Unlabelled = Unlabelled()
    learn: Learn = Learn()
    evolve: Evolve = Evolve()
    evaluate: Evaluate = Evaluate()
    explore: Explore = Explore()
    dynamics: Dynamics = Dynamics()
    store: Store = Store()
    cluster: Cluster = Cluster()

    @property
    def model_settings(self) -> ModelSettings:
        """How the run's models are read."""
        return ModelSettings(
            image_backend=self.policy.image_backend,
            trust_remote_code=self.policy.trust_remote_code,
            max_image_tokens=self.data.max_image_tokens,
        )
