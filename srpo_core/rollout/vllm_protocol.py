"""What is asked of a vLLM server, and how its answers are read: token ids in, token ids out, never text.

The endpoint is `POST /inference/v1/generate`: it takes vLLM's own sampling parameters and gives, for each sample, the
token ids, the log-probability of each, and the label of the weights that drew them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from srpo_core.rollout.engine import Completion, PromptGroup, Sampling
from srpo_core.rollout.errors import EngineError
from srpo_core.seeds import derive_seed

# vLLM refuses higher temperatures, and raises lower ones to its least, silently.
TEMPERATURES = (0.01, 2.0)
# Added to the logit of a token that must not be drawn: its probability is exactly 0 in float32 at any temperature
# allowed. JSON knows no infinity.
FORBIDDEN = -1e9
# What the server answers for a log-probability that is not a number.
NOT_A_LOGPROB = -9999.0


@dataclass(frozen=True)
class Dialect:
    """What requests say of the policy's tokens: those that end a completion, and those never drawn."""

    ends: Sequence[int]
    unsampled: Sequence[int]


def request_seed(group: PromptGroup) -> int:
    """The seed of the request for a whole group: 62 bits, so that adding a sample's place cannot overflow.

    vLLM draws sample i of a request from the stream of seed + i. So a sample's stream follows from (run, stage, epoch,
    step, prompt, sample), as its own seed does, and from the group's size beside.
    """
    return derive_seed("vllm request", *group.seeds) >> 1


def completion_request(group: PromptGroup, sampling: Sampling, dialect: Dialect) -> dict[str, Any]:
    """All samples of a prompt. The end tokens end them whatever the server's own configuration says."""
    return {
        "token_ids": list(group.prompt_token_ids),
        "sampling_params": {
            "n": len(group.seeds),
            "seed": request_seed(group),
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": list(dialect.ends),
            "ignore_eos": True,
            "logit_bias": {str(token): FORBIDDEN for token in dialect.unsampled},
            "logprobs": 0,
            "detokenize": False,
            **_UNTOUCHED,
        },
    }


def probe_request(token_ids: npt.NDArray[np.int32]) -> dict[str, Any]:
    """The log-probabilities of a prompt's own tokens."""
    sampling = {"n": 1, "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0, "detokenize": False}
    return {"token_ids": token_ids.tolist(), "sampling_params": sampling}


def only_choice_request(token: int) -> dict[str, Any]:
    """One token where no other may be drawn: under the distribution it is drawn from its log-probability is 0."""
    sampling = {"n": 1, "max_tokens": 1, "temperature": 1.0, "seed": 0, "logprobs": 0, "detokenize": False}
    return {"token_ids": [token, token], "sampling_params": sampling | {"allowed_token_ids": [token]}}


# Said outright, since a model's generation_config.json would else set them.
_UNTOUCHED = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "min_tokens": 0}


def read_completions(
    answer: dict[str, Any], group: PromptGroup, sampling: Sampling, dialect: Dialect
) -> list[Completion]:
    """The group's completions, in the order of its seeds. Raises EngineError when the answer is not that of a vLLM
    server of the version we know."""
    try:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        completions = [_completion(choice, sampling, dialect) for choice in choices]
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"an answer cannot be read ({type(error).__name__}: {error}): vLLM 0.32 is known") from error
    if len(completions) != len(group.seeds):
        raise EngineError(f"{len(group.seeds)} completions were asked for and {len(completions)} came")
    return completions


def _completion(choice: dict[str, Any], sampling: Sampling, dialect: Dialect) -> Completion:
    token_ids = np.array(choice["token_ids"], dtype=np.int32)
    content = choice["logprobs"]["content"]
    logprobs = np.array([token["logprob"] for token in content], dtype=np.float32)
    reason = choice["finish_reason"]
    if [token["token_id"] for token in content] != choice["token_ids"] or not len(token_ids):
        raise ValueError("its tokens and its log-probabilities do not belong together")
    if not np.isfinite(logprobs).all() or (logprobs <= NOT_A_LOGPROB).any():
        raise ValueError("a token came without its log-probability")
    if reason not in ("stop", "length") or (reason == "length" and len(token_ids) != sampling.max_new_tokens):
        raise ValueError(f"a completion of {len(token_ids)} tokens ended by {reason!r}")
    if (reason == "stop") != (token_ids[-1] in dialect.ends):
        raise ValueError(f"a completion whose last token is {token_ids[-1]} ended by {reason!r}")
    return Completion(token_ids, logprobs, reason)


def weight_labels(answer: dict[str, Any]) -> set[str]:
    """The labels of the weights that drew the answer's tokens; of a sample that tells none, "unknown"."""
    unknown = [{"version": "unknown"}]
    spans = [span for choice in answer["choices"] for span in choice.get("weight_versions") or unknown]
    return {str(span["version"]) for span in spans}


def read_prompt_logprobs(answer: dict[str, Any], token_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
    """The log-probability of each prompt token but the first. Raises EngineError when one is missing."""
    try:
        places = zip(answer["prompt_logprobs"][1:], token_ids[1:].tolist(), strict=True)
        return np.array([place[str(token)]["logprob"] for place, token in places], dtype=np.float32)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(
            f"prompt log-probabilities cannot be read ({type(error).__name__}: {error}): vLLM 0.32 is known"
        ) from error


def read_only_choice(answer: dict[str, Any]) -> float:
    """The log-probability of the one token that was drawn."""
    try:
        return float(answer["choices"][0]["logprobs"]["content"][0]["logprob"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise EngineError(f"an answer cannot be read ({type(error).__name__}: {error}): vLLM 0.32 is known") from error
