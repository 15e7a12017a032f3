"""The whole run as typed settings: every field with its unit, its bounds and what it does.

Values that SRPO's public sources do not give are ours; docs/method.md tells which are known.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

PositiveInt = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class PolicySettings(_Section):
    """The model that is trained."""

    model: str = "lab"
    """`lab`, the packaged base policy, or a directory with a causal language model as transformers writes it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model is sampled and trained."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that rollouts are computed in; the update always works in float32."""
    threads: PositiveInt = 1
    """CPU threads of one operation. One is fastest for the lab's model; results repeat for an equal number only."""


class ProblemSettings(_Section):
    """The problems: what is trained on and what is held out."""

    source: Literal["lab"] = "lab"
    """The data set. `lab` is the procedural world of docs/lab.md."""
    train: PositiveInt = 80
    """Training problems per difficulty and domain."""
    heldout: PositiveInt = 60
    """Held-out problems per difficulty and domain. None of them is ever trained on, by content."""
    template: Literal["plain", "think_answer", "chat"] = "plain"
    """How a question becomes a prompt: as it is, with instructions for the tags, or by the chat template."""


class RolloutSettings(_Section):
    """Sampling of completions."""

    prompts_per_step: PositiveInt = 32
    """Prompts of one step, at most; the prompts of an epoch are spread evenly over its steps."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """Completions per prompt, G. The advantage compares them, so one alone would never learn."""
    max_new_tokens: PositiveInt = 64
    """Longest completion, in tokens; a longer one is cut there and counted as truncated."""
    temperature: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Divides the logits, in sampling and in the update alike."""
    batch_rows: PositiveInt = 1024
    """Completions decoded together, at most; bounds the memory of keys and values."""
    groups_per_shard: PositiveInt = 64
    """Groups (prompts) in one file of the history."""
    max_staleness: Annotated[int, Field(ge=0, le=8)] = 0
    """Policy versions by which a rollout may lag behind the update that uses it. 0 is strictly on-policy; with k,
    step n is sampled by the version that step n-k produced, so that sampling and updating overlap."""
    dynamic_sampling_rounds: Annotated[int, Field(ge=0, le=100)] = 0
    """DAPO's dynamic sampling: groups of equal accuracy are set aside, and the step is refilled with further prompts
    of the epoch until `prompts_per_step` groups are left or this many rounds were sampled. 0: off."""


class RewardSettings(_Section):
    """What a completion is worth: the weighted sum of its parts."""

    accuracy: Annotated[float, Field(gt=0)] = 1.0
    """Weight of a right answer."""
    format: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the form <think>…</think><answer>…</answer>, exactly once and nothing outside."""
    code_in_math: Annotated[float, Field(ge=0)] = 0.1
    """Taken off a math completion that holds code. SRPO penalises it; the definition and the value are ours."""
    mixed_language: Annotated[float, Field(ge=0)] = 0.1
    """Taken off a completion in another script than its question's. SRPO penalises it; definition and value: ours."""
    overlong: Annotated[float, Field(ge=0)] = 0.0
    """Taken off a completion of the full length, and linearly less off one that ends within `overlong_buffer` of it."""
    overlong_buffer: PositiveInt = 4096
    """Tokens before `rollout.max_new_tokens` in which `overlong` sets in."""
    check_thought: bool = True
    """In the lab, an answer counts as right only if every link of its running thought is right too: long chains
    are guessed right without it 3 to 9 % of the time."""


class VerifierSettings(_Section):
    """The processes that judge answers, and their limits. The lab needs none of them."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Processes of each kind at a time; 0 is one for each core that the run may use."""
    math_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Wall-clock seconds of one comparison; a longer one is stopped and is not correct."""
    math_memory_mib: Annotated[int, Field(ge=256)] = 1024
    """Address space of a process that compares math answers, in MiB."""
    code_wall_seconds: Annotated[float, Field(gt=0)] = 20.0
    """Wall-clock seconds that a program has for all of its tests together; well above its CPU seconds, since a busy
    machine is not its fault."""
    code_cpu_seconds: Annotated[float, Field(gt=0)] = 8.0
    """CPU seconds that it has for them."""
    code_memory_mib: Annotated[int, Field(ge=128)] = 512
    """Address space of a program, in MiB; the interpreter takes about 60 of them."""
    code_output_kib: PositiveInt = 8192
    """What a program may print, in KiB; also the largest value that it may return."""
    code_processes: PositiveInt = 8
    """Threads that a program may have, the main one included. New processes are never allowed."""
    unsafe_no_isolation: bool = False
    """Run programs even where nothing isolates them from this machine. They can do all that this user can."""


class UpdateSettings(_Section):
    """The policy update."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """AdamW's learning rate, constant after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which the learning rate rises linearly to its value."""
    beta1: Decay = 0.9
    """AdamW's first decay."""
    beta2: Decay = 0.95
    """AdamW's second decay."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient of an optimizer step is scaled down to this norm."""
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Clip range of the ratio below 1."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """Clip range of the ratio above 1."""
    scale_by_std: bool = True
    """Divide the advantage by the group's standard deviation, as GRPO does."""
    mask_truncated: bool = True
    """A completion that was cut at the longest length gets no advantage."""
    minibatches: PositiveInt = 1
    """Optimizer steps that share a step's groups between them."""
    passes: PositiveInt = 1
    """Times that a step's rollouts are gone through."""
    micro_batch_tokens: PositiveInt = 4096
    """Tokens of one forward and backward, padding included; bounds the memory, never changes the gradient."""


SELECTORS = ("greso", "history", "history_readmit", "pass_rate", "pools", "thompson", "uniform", "zero_variance")


class ResamplingSettings(_Section):
    """How the next epoch's prompts are chosen from the history; docs/selectors.md tells the rules."""

    selector: str = "history"
    """The rule: `history` (the paper's: prompts that were solved every time are dropped, all others stay),
    `history_readmit`, `uniform`, `zero_variance`, `greso`, `thompson`, `pools`, `pass_rate`, or a file of your own that
    ends in .sql. The settings below belong to the rules that they name."""
    readmit_after: PositiveInt = 3
    """`history_readmit`, `zero_variance`: epochs that a dropped prompt sits out, at most."""
    sure_rollouts: PositiveInt = 32
    """`history_readmit`: graded rollouts, all correct, after which a prompt sits out that long; on fewer, less."""
    explore: Annotated[float, Field(ge=0.05, le=0.95)] = 0.5
    """`greso`: probability, at first, of sampling a prompt again that had no variance once."""
    explore_step: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """`greso`: what that probability changes by after each epoch, for each side of its own."""
    target_easy: Share = 0.083
    """`greso`: share of all-correct prompts from which the probability of their side falls."""
    target_hard: Share = 0.167
    """`greso`: share of all-wrong prompts from which the probability of their side falls."""
    target_pass_rate: Share = 0.5
    """`thompson`: the pass rate to which the draws should be near."""
    decay: Share = 0.5
    """`thompson`: what a rollout's weight is multiplied by for every epoch that went by since."""
    keep_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """`thompson`: share of all prompts that stay."""
    weight_easy: Share = 0.1
    """`pools`: probability of sampling a prompt whose last visit was all correct."""
    weight_mixed: Share = 1.0
    """`pools`: probability of sampling a prompt whose last visit was correct in part."""
    weight_hard: Share = 0.5
    """`pools`: probability of sampling a prompt whose last visit was all wrong."""
    solved_pass_rate: Annotated[float, Field(gt=0, le=1)] = 0.875
    """`pass_rate`: pass rate in one visit from which on a prompt is dropped for ever."""

    @field_validator("selector")
    @classmethod
    def _known(cls, selector: str) -> str:
        if selector not in SELECTORS and not selector.endswith(".sql"):
            raise ValueError(f"must be one of {', '.join(SELECTORS)}, or a file that ends in .sql")
        return selector


class HistorySettings(_Section):
    """Where the history is kept."""

    url: Annotated[str, Field(pattern=r"^(file:///.*|s3://[a-z0-9.-]+(/[A-Za-z0-9._=-]+)*/?)$")] | None = None
    """Place of the history's files, `file:///…` or `s3://bucket/prefix`, in a folder of the run's name; without one,
    the run's directory. Endpoint, region and credentials come from the environment (AWS_…), never from here."""


class StageSettings(_Section):
    """Limits of one training stage."""

    max_steps: PositiveInt
    """The stage ends with the epoch in which this many steps are reached."""


class TransitionSettings(_Section):
    """When stage 1 has taught what it can."""

    window: Annotated[int, Field(ge=2)] = 40
    """Steps over which the slope of the math accuracy is fitted."""
    min_gain: Annotated[float, Field(ge=0)] = 0.01
    """The accuracy is flat when its fitted gain over the window is below this."""


class StagesSettings(_Section):
    """The two stages of SRPO."""

    math: StageSettings = StageSettings(max_steps=100)
    """Stage 1: math only."""
    math_and_code: StageSettings = StageSettings(max_steps=100)
    """Stage 2: all code prompts and the math prompts that stage 1 kept."""
    transition: TransitionSettings = TransitionSettings()
    """When stage 2 begins before stage 1 has reached its limit."""


class EvaluationSettings(_Section):
    """Evaluation on held-out problems."""

    samples: PositiveInt = 4
    """Completions per held-out problem; pass@1 is their mean."""
    every_epochs: PositiveInt = 1
    """An evaluation follows every so many epochs, and each stage's last epoch always."""


class Settings(_Section):
    """A run of SRPO."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 17
    """Every random number of the run derives from it."""
    keep_policies: Annotated[int, Field(ge=1)] = 2
    """Newest policy versions kept, besides those that an epoch began or ended with."""
    policy: PolicySettings = PolicySettings()
    problems: ProblemSettings = ProblemSettings()
    rollout: RolloutSettings = RolloutSettings()
    rewards: RewardSettings = RewardSettings()
    verifiers: VerifierSettings = VerifierSettings()
    update: UpdateSettings = UpdateSettings()
    resampling: ResamplingSettings = ResamplingSettings()
    history: HistorySettings = HistorySettings()
    stages: StagesSettings = StagesSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.update.minibatches > self.rollout.prompts_per_step:
            raise ValueError(
                f"update.minibatches ({self.update.minibatches}) must not exceed rollout.prompts_per_step "
                f"({self.rollout.prompts_per_step}): each optimizer step needs a group"
            )
        if self.rewards.overlong and self.rewards.overlong_buffer > self.rollout.max_new_tokens:
            raise ValueError(
                f"rewards.overlong_buffer ({self.rewards.overlong_buffer}) must not exceed rollout.max_new_tokens "
                f"({self.rollout.max_new_tokens}): it is the last part of that length"
            )
        if self.keep_policies <= self.rollout.max_staleness:
            raise ValueError(
                f"keep_policies ({self.keep_policies}) must exceed rollout.max_staleness "
                f"({self.rollout.max_staleness}): the version that samples must still be there"
            )
        if self.policy.device == "cpu" and self.policy.dtype == "bfloat16":
            raise ValueError(
                "policy.dtype bfloat16 needs policy.device cuda: on a CPU the rollouts would be computed less "
                "exactly than the update and no faster"
            )
        return self
