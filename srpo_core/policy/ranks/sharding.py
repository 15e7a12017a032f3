"""A model whose parameters, gradients and optimizer state lie in shares on several processes (FSDP2)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


def shard(forward: nn.Module, model: PreTrainedModel, *, device: str, compute: torch.dtype) -> None:
    """Leave each process its share of every parameter of `model`, on `device`; `forward` is the module that is called.

    Each decoder layer is put together when it is computed; what is no layer's (embeddings, last norm, head) belongs
    to `forward`, within whose call alone the whole of it can be seen. `forward` must return tensors or tuples of
    them. Gradients are added up over the processes, not averaged: every process divides its loss by the tokens of
    all. Parameters stay in their type, gradients are added in float32; `compute` is the type of the arithmetic.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    precision = MixedPrecisionPolicy(
        param_dtype=compute if compute != torch.float32 else None, reduce_dtype=torch.float32
    )
    layers = set(model._no_split_modules or ())
    for module in list(model.modules()):
        if type(module).__name__ in layers:
            fully_shard(module, mesh=mesh, mp_policy=precision)
    fully_shard(forward, mesh=mesh, mp_policy=precision)
    for module in forward.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # a pre-multiplied sum is NCCL's alone


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may lie in shares; every process must ask. Shape as the parameter's, any dtype."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mine(tensor: Tensor) -> Tensor:
    """This process's share of a tensor that may lie in shares."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
