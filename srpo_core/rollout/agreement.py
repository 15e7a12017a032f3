"""Whether a model computes the same in every way that it is used, measured rather than concluded from its type.

Training needs that what a model says of a token depends on what stands before it alone, that the trainer's packed
forward pass says it, and that sampling on a cache does. A model that is no causal decoder, or that needs more of its
attention than we give it, would be trained wrongly in silence, or stop a run with a traceback.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model
from srpo_core.policy.probe import probe_token_ids, token_logprobs
from srpo_core.policy.scorer import Scorer, attention_cost
from srpo_core.rollout.transformers import Decoder

Ids = npt.NDArray[np.int32]
Logprobs = npt.NDArray[np.float32]

TOLERANCE = 1e-3
"""Of the log-probabilities' standard deviation: rounding in float32 is far below, another computation far above."""
ROUNDING = 2e-5
"""In nats, for a model that says nearly the same of every token."""


def require_agreement(directory: Path) -> None:
    """Raise PolicyError unless the model in `directory` is a causal decoder that trainer and sampler compute alike.

    Some 600 random tokens go through the model, loaded in float32 on the CPU: meant for once per base policy.
    """
    model = load_model(directory)
    way = "the plain forward pass"
    try:
        token_ids = _sequences(model)
        expected = token_logprobs(model, token_ids)
        tolerance = TOLERANCE * float(expected.std()) + ROUNDING
        for way, measure in _WAYS.items():
            difference = measure(model, token_ids, expected)
            if not difference <= tolerance:  # also when it is not a number
                told = f"{way} is off by {difference:.2g} nats, where rounding explains {tolerance:.2g}"
                raise _refusal(directory, model, told)
    except PolicyError:
        raise
    except Exception as error:  # models of other kinds fail wherever their code expects something else
        raise _refusal(directory, model, f"{way} fails ({type(error).__name__}: {error})") from error


def _refusal(directory: Path, model: PreTrainedModel, what: str) -> PolicyError:
    return PolicyError(
        f"{directory}: models of type {model.config.model_type} are not supported: {what}; use a causal decoder with "
        "full attention, such as Llama or Qwen2"
    )


def _sequences(model: PreTrainedModel) -> Ids:
    """Random tokens, the second of each pair of sequences beginning like the first for two thirds of its length."""
    token_ids = probe_token_ids(model.config.vocab_size, model.config.max_position_embeddings)
    shared = 2 * token_ids.shape[1] // 3
    token_ids[1::2, :shared] = token_ids[::2, :shared]
    return token_ids


def _of_beginnings(model: PreTrainedModel, token_ids: Ids, expected: Logprobs) -> float:
    """How far off what the model says is when the last third of the sequences is not there."""
    length = 2 * token_ids.shape[1] // 3
    return float(np.abs(token_logprobs(model, token_ids[:, :length]) - expected[:, : length - 1]).max())


@torch.inference_mode()
def _on_a_cache(model: PreTrainedModel, token_ids: Ids, expected: Logprobs) -> float:
    """How far off it is token by token, as it is sampled: from prompts of several lengths, whose rows then split."""
    tokens, rows = torch.from_numpy(token_ids.astype(np.int64)), torch.arange(len(token_ids))
    prompts = [ids[: max(1, len(ids) // 3 - place)] for place, ids in enumerate(token_ids[::2].tolist())]
    starts = torch.tensor([len(prompt) for prompt in prompts])[rows // 2]
    decoder = Decoder(model, prompts)
    logits = decoder.prefill()[rows // 2]
    decoder.keep_rows(rows // 2)
    differences = []
    for step in range(tokens.shape[1] - len(tokens[0]) // 3):
        drawn = tokens[rows, starts + step]
        said = logits.float().log_softmax(-1)[rows, drawn].numpy()
        differences.append(np.abs(said - expected[rows, starts + step - 1]).max())
        logits = decoder.step(drawn)
    return float(np.max(differences))


@torch.no_grad()
def _packed(model: PreTrainedModel, token_ids: Ids, expected: Logprobs) -> float:
    """How far off the trainer's forward pass is on the same sequences, each shared beginning computed once."""
    attention_cost(model)
    start = token_ids.shape[1] // 3
    scorer = Scorer(model, temperature=1.0, unsampled=[])
    said, _ = scorer(scorer.pack([*token_ids[:, :start]], [*token_ids[:, start:]]))
    return float(np.abs(said.numpy() - expected[:, start - 1 :].ravel()).max())


_WAYS: dict[str, Callable[[PreTrainedModel, Ids, Logprobs], float]] = {
    "a sequence's beginning by itself": _of_beginnings,
    "sampling on a cache": _on_a_cache,
    "the trainer's packed forward pass": _packed,  # the last, for it changes the model's attention
}
