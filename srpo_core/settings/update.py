"""How the policy learns."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srpo_core.settings.lora import LoraSettings
from srpo_core.settings.parallel import ParallelSettings
from srpo_core.settings.section import Decay, MayChange, PositiveInt, Section, Share

AdvantageKind = Literal["group_std", "group_mean", "leave_one_out", "batch_std", "batch_normalised"]
PolicyLoss = Literal["clip", "gspo", "cispo"]
LossMean = Literal["token", "sequence", "constant"]
KlEstimator = Literal["k1", "k2", "k3"]
ImportanceSampling = Literal["off", "token", "sequence"]


class KlSettings(Section):
    """The distance that the policy keeps from a reference policy."""

    coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the divergence in the loss. 0: no term, and no reference policy is loaded."""
    estimator: KlEstimator = "k3"
    """How each token estimates the divergence, see docs/method.md."""
    reference: str | None = None
    """Directory of the reference policy; null: the policy that the run began with."""


class UpdateSettings(Section):
    """The policy update."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    """AdamW's learning rate after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which the learning rate rises linearly to its value."""
    decay_steps: PositiveInt | None = None
    """Optimizer steps over which it then falls along half a cosine; none: it stays. A run does not know its end."""
    final_learning_rate_share: Share = 0.1
    """Where such a fall ends and stays, as a share of `learning_rate`."""
    beta1: Decay = 0.9
    """AdamW's first decay."""
    beta2: Decay = 0.95
    """AdamW's second decay."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient of an optimizer step is scaled down to this norm."""
    advantage: AdvantageKind = "group_std"
    """What a reward is compared with: the group's mean, in units of its deviation (GRPO) or without (`group_mean`,
    Dr. GRPO); the mean of its siblings (`leave_one_out`, RLOO); the group's mean in units of the batch's deviation
    (`batch_std`); or the batch's mean and deviation, whatever the groups (`batch_normalised`, REINFORCE++)."""
    mask_truncated: bool = True
    """A completion that was cut at the longest length gets no advantage."""
    loss: PolicyLoss = "clip"
    """PPO's clipped loss by token; GSPO's, with one ratio for a completion; or CISPO's, which clips the weight of a
    token and never its gradient."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Clip range of the ratio below 1; 1 is no bound."""
    clip_high: Annotated[float, Field(gt=0)] = 0.28
    """Clip range of the ratio above 1."""
    dual_clip: Annotated[float, Field(gt=1)] | None = None
    """Largest ratio that counts for a token of negative advantage, such as 3; null: no bound. `loss: clip` alone."""
    loss_mean: LossMean = "token"
    """What is averaged over an optimizer step: its tokens; its completions, each the mean of its tokens; or its
    completions, each the sum of its tokens over `rollout.max_new_tokens` (`constant`, Dr. GRPO)."""
    entropy_coefficient: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus. 0: none."""
    kl: KlSettings = KlSettings()
    old_logprobs: Literal["auto", "sampler", "recomputed"] = "auto"
    """The log-probabilities that a ratio divides by: the sampler's own, or the trainer's before the update. `auto`: the
    sampler's where it computes as the trainer does (transformers), else recomputed (vLLM)."""
    importance_sampling: Literal["auto"] | ImportanceSampling = "auto"
    """Weighs each loss by the recomputed over the sampler's probability of its token, or of its completion
    (`sequence`). `auto`: `token` where another program samples (vLLM), else `off`."""
    importance_sampling_cap: Annotated[float, Field(ge=1)] = 2.0
    """Largest such weight."""
    minibatches: PositiveInt = 1
    """Optimizer steps that share a step's groups between them."""
    passes: PositiveInt = 1
    """Times that a step's rollouts are gone through."""
    micro_batch_tokens: Annotated[PositiveInt, MayChange.ROUNDED] = 4096
    """Distinct tokens of one forward and backward; bounds the memory, never changes the gradient."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What the model multiplies in, forward and backward; weights, their gradients and AdamW's moments stay float32."""
    gradient_checkpointing: Annotated[bool, MayChange.ROUNDED] = False
    """Keep only what goes in between the layers, and compute each layer again in the backward pass: less memory for
    about a third more arithmetic, and the same gradient."""
    lora: LoraSettings = LoraSettings()
    parallel: ParallelSettings = ParallelSettings()
    not_finite_limit: Annotated[PositiveInt, MayChange.ALIKE] = 3
    """An update whose loss, gradient or weights are not finite is left out; this many in a row end the run."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.loss != "clip" and not {"clip_low", "clip_high"} <= self.model_fields_set:
            raise ValueError(
                f"loss {self.loss} needs a clip_low and a clip_high of its own: those of `clip` do not suit it "
                "(gspo's ratio is a mean, about 3e-4 and 4e-4; cispo's is a weight, such as 1 and 4)"
            )
        if self.loss == "gspo" and self.loss_mean != "sequence":
            raise ValueError(f"loss gspo needs loss_mean sequence, not {self.loss_mean}: its ratio is a completion's")
        if self.loss != "clip" and self.dual_clip is not None:
            raise ValueError(f"dual_clip goes with loss clip, not with {self.loss}: leave it out")
        if self.kl.reference is not None and not self.kl.coefficient:
            raise ValueError("kl.reference has no effect while kl.coefficient is 0: set both, or neither")
        if self.old_logprobs == "sampler" and self.importance_sampling in ("token", "sequence"):
            raise ValueError(
                f"importance_sampling {self.importance_sampling} compares recomputed log-probabilities with the "
                "sampler's: set old_logprobs to recomputed or auto"
            )
        return self

    @property
    def optimizer_steps(self) -> int:
        """Optimizer steps of one update, at most."""
        return self.minibatches * self.passes
