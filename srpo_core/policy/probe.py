"""What a policy version must answer: log-probabilities of fixed token sequences, stored beside its weights.

An engine that has taken over a version asks its servers for the same log-probabilities. Weights that are not the new
ones give others, and nothing else would tell: rollouts of an old policy look like any rollouts. The sequences are
random tokens, the same for every version of a model: any change of the weights shows in some of them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedModel

from srpo_core.policy.errors import PolicyError
from srpo_core.seeds import derive_seed, generator

PROBE_FILE = "probe.safetensors"
SEQUENCES = 8
LENGTH = 24


@dataclass(frozen=True)
class Probe:
    """`token_ids` int32 (S, L); `logprobs` float32 (S, L - 1): of each token but the first, untempered, in nats."""

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    @property
    def digest(self) -> str:
        """Names the answers, and so the weights: 16 hexadecimal digits."""
        return hashlib.sha256(self.token_ids.tobytes() + self.logprobs.tobytes()).hexdigest()[:16]


def probe_token_ids(vocab_size: int, max_length: int) -> npt.NDArray[np.int32]:
    """The sequences for every model of this vocabulary: int32 (8, 24), or shorter where the model is."""
    random = generator(derive_seed("probe", vocab_size))
    return random.integers(vocab_size, size=(SEQUENCES, min(LENGTH, max_length)), dtype=np.int32)


@torch.no_grad()
def token_logprobs(model: PreTrainedModel, token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """The untempered log-probability of each token but the first, (S, L - 1) for (S, L), by the model's own forward."""
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("sdpa")  # the update's own attends packed rollouts alone
    tokens = torch.from_numpy(token_ids.astype(np.int64)).to(model.device)
    logprobs = model(input_ids=tokens, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    scored: npt.NDArray[np.float32] = logprobs.gather(-1, tokens[:, 1:, None]).squeeze(-1).cpu().numpy()
    model.set_attn_implementation(attention)
    model.train(training)
    return scored


def measure_probe(model: PreTrainedModel) -> Probe:
    """The log-probabilities that `model` gives to its probe."""
    token_ids = probe_token_ids(model.config.vocab_size, model.config.max_position_embeddings)
    return Probe(token_ids, token_logprobs(model, token_ids))


def write_probe(directory: Path, model: PreTrainedModel) -> None:
    """Store what `model` answers into `directory`, beside its weights. Raises SafetensorError without room for it."""
    probe = measure_probe(model)
    save_file({"token_ids": probe.token_ids, "logprobs": probe.logprobs}, directory / PROBE_FILE)


def read_probe(directory: Path) -> Probe:
    """The probe stored in `directory`. Raises PolicyError when there is none, or it is damaged."""
    try:
        stored = load_file(directory / PROBE_FILE)
        return Probe(stored["token_ids"], stored["logprobs"])
    except (OSError, KeyError, SafetensorError) as error:
        raise PolicyError(
            f"{directory}: {PROBE_FILE} cannot be read ({error}), so no server can be proved to serve this policy; "
            "a version that the trainer publishes has one"
        ) from error
