"""The model that is trained."""

from typing import Literal

from srpo_core.settings.section import PositiveInt, Section


class PolicySettings(Section):
    """The model that is trained."""

    model: str = "lab"
    """`lab`, the packaged base policy, or a directory with a causal language model as transformers writes it."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the model is sampled and trained."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that rollouts are computed in; the update always works in float32."""
    threads: PositiveInt = 1
    """CPU threads of one operation. One is fastest for the lab's model; results repeat for an equal number only."""
