"""An adapter of low rank that is trained in the place of the whole model."""

from typing import Annotated, Literal

from pydantic import Field

from srpo_core.settings.section import PositiveInt, Section


class LoraSettings(Section):
    """LoRA (arXiv 2106.09685), through peft: `pip install "srpo[lora]"`. There is no dropout: the loss needs the very
    probabilities that the rollouts were sampled with."""

    rank: PositiveInt | None = None
    """Rank of each weight's change, such as 16; null: no adapter, the whole model is trained."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The change is scaled by alpha / rank."""
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Linear layers that get an adapter, by the last part of their names, or all but the head."""
