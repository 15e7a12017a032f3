"""The policy as what the update differentiates: packed rollouts in, log-probability and entropy of their tokens out."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from srpo_core.policy.attention import NAME as ROLLOUT_ATTENTION
from srpo_core.policy.head import Head, token_statistics
from srpo_core.policy.packing import Ids, PackedRollouts, pack

# How much longer than its shortest a grid's longest rollout may be: more grids cost calls, longer ones padding.
GRID_PADDING = 0.25


class Scorer(torch.nn.Module):
    """A causal model and its head in one forward pass, under the distribution that tokens are sampled from.

    One module, because sharded parameters are whole only inside the forward pass of the module they belong to. A model
    whose attention transformers does not let us replace runs on padded grids; its results are the same.
    """

    unsampled: Tensor

    def __init__(
        self, model: PreTrainedModel, *, temperature: float, unsampled: list[int], autocast: torch.dtype | None = None
    ) -> None:
        """Score with `model`, whose parameters stay as they are; `autocast` is the dtype of its multiplications."""
        super().__init__()
        self.model = model
        self._temperature = temperature
        self._autocast = autocast
        self.register_buffer("unsampled", torch.tensor(unsampled, dtype=torch.long, device=model.device), False)
        self._packs = bool(model._supports_attention_backend)
        if self._packs:
            model.set_attn_implementation(ROLLOUT_ATTENTION)

    def pack(self, prompts: Sequence[Ids], completions: Sequence[Ids]) -> PackedRollouts:
        """The rollouts as this device attends them best: unpadded on a GPU, grids alike in length elsewhere."""
        return pack(prompts, completions, padding=0.0 if self.unsampled.is_cuda else GRID_PADDING)

    def forward(self, packed: PackedRollouts) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (nats) of the T completion tokens: both (T,), float32, with gradients."""
        body, head = self.model.base_model, self.model.get_output_embeddings()
        device = self.unsampled.device
        packed = packed.to(device)
        with torch.autocast(device.type, self._autocast) if self._autocast else nullcontext():
            if self._packs:
                tokens, positions = packed.tokens[None], packed.positions[None]
                hidden = body(input_ids=tokens, position_ids=positions, use_cache=False, packed=packed)[0][0]
            else:
                laid = packed.tokens[packed.layout].split([rows * width for rows, width in packed.spans])
                grids = [ids.view(span) for ids, span in zip(laid, packed.spans, strict=True)]
                states = [body(input_ids=grid, use_cache=False)[0].flatten(0, 1) for grid in grids]
                hidden = torch.cat(states).index_select(0, packed.places)
        head = Head(head.weight, getattr(head, "bias", None), self._temperature, self.unsampled, self._autocast)
        return token_statistics(hidden, head, packed.predictors, packed.targets)


def attention_cost(model: PreTrainedModel) -> float:
    """What attention inside a rollout of L tokens costs per L * L, in units of what a token costs elsewhere.

    Forward, a token is multiplied with every parameter (2 operations each), and causal attention computes two products
    of L * L / 2 numbers per head dimension.
    """
    config = model.config
    width = config.num_attention_heads * (
        getattr(config, "head_dim", 0) or config.hidden_size // config.num_attention_heads
    )
    return float(config.num_hidden_layers * width / sum(parameter.numel() for parameter in model.parameters()))
