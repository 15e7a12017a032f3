"""The model that is trained."""

from typing import Annotated, Literal

from srpo_core.settings.section import MayChange, PositiveInt, Section


class PolicySettings(Section):
    """The model that is trained."""

    model: str = "lab"
    """`lab`, the packaged base policy; a directory with a causal language model as transformers writes it; a GGUF file;
    a Hugging Face id such as `Qwen/Qwen2.5-1.5B`; or `smollm2-135m`, which the extra `smollm2` brings. See
    docs/models.md."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id; null: its main branch."""
    device: Annotated[Literal["cpu", "cuda"], MayChange.ROUNDED] = "cpu"
    """Where the model is sampled and trained."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The type that rollouts are computed in; the update always works in float32."""
    threads: Annotated[PositiveInt, MayChange.ROUNDED] = 1
    """CPU threads of one operation. One is fastest for the lab's model; results repeat for an equal number only."""
