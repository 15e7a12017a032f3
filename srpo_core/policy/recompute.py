"""Gradient checkpointing: activations inside a layer are computed again in the backward pass instead of kept."""

import warnings

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from srpo_core.policy.errors import PolicyError


def recompute_layers(model: PreTrainedModel) -> None:
    """Make `model` keep only what goes in between its layers. Raises PolicyError when its layers cannot do that.

    transformers recomputes in training mode alone, which would turn dropout on as well: the update must compute the
    policy that was sampled. So the layers are told to train, and nothing inside them is.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not model.supports_gradient_checkpointing or not layers:
        raise PolicyError(
            f"models of type {model.config.model_type} cannot recompute their layers: set "
            "update.gradient_checkpointing to false"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the name, which goes with transformers 6
        model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
