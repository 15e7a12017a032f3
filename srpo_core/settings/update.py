"""How the policy learns."""

from typing import Annotated

from pydantic import Field

from srpo_core.settings.lora import LoraSettings
from srpo_core.settings.parallel import ParallelSettings
from srpo_core.settings.section import Decay, PositiveInt, Section, Share


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
    gradient_checkpointing: bool = False
    """Keep only what goes in between the layers, and compute each layer again in the backward pass: less memory for
    about a third more arithmetic, and the same gradient."""
    lora: LoraSettings = LoraSettings()
    parallel: ParallelSettings = ParallelSettings()
