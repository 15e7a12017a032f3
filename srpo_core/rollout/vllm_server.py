"""One vLLM server over HTTP: the policy it is given, the proof that it serves it, and requests to it.

The servers' development endpoints are used (`VLLM_SERVER_DEV_MODE=1`): whoever reaches them controls the server, so it
belongs on the loopback or on a network of its own.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from srpo_core.policy.probe import Probe
from srpo_core.rollout.errors import EngineError, StaleWeightsError
from srpo_core.rollout.proof import Answer, objection
from srpo_core.rollout.vllm_protocol import (
    only_choice_request,
    probe_request,
    read_only_choice,
    read_prompt_logprobs,
    weight_labels,
)

GENERATE = "/inference/v1/generate"
IN_HAND_OVER = "srpo: between two versions"
NEEDED = "VLLM_SERVER_DEV_MODE=1, --enable-scale-out and --logprobs-mode processed_logprobs"


class ServerLostError(Exception):
    """The server cannot be reached, hangs, or fails: what was asked may be asked of another."""


class ServerOutdatedError(ServerLostError):
    """The server answers with other weights than those it was given, as one does that was started anew."""


@dataclass(frozen=True)
class Version:
    """A policy version to be served: where its copy lies, what it must answer, and how servers label it."""

    name: str
    directory: Path
    probe: Probe

    @property
    def label(self) -> str:
        """Names the weights: what they answer is part of it."""
        return f"srpo: {self.name} {self.probe.digest}"


class VllmServer:
    """A server at `url`: `ready` while it is known to serve the version wanted, `outstanding` requests under way.

    `probe_difference`: the largest difference to the trainer at its last proof, in nats.
    """

    def __init__(self, url: str, client: httpx.AsyncClient, *, tolerance: float) -> None:
        self.url = url.rstrip("/")
        self.ready = False
        self.outstanding = 0
        self.trouble = "it was not asked yet"
        self.max_model_len = 0
        self.probe_difference = 0.0
        self._client = client
        self._tolerance = tolerance
        self._previous: Answer | None = None

    async def generate(self, body: dict[str, Any], version: Version) -> dict[str, Any]:
        """What the server answers to a request for completions, all of them drawn by `version`."""
        answer = await self._call("POST", GENERATE, json=body)
        if labels := weight_labels(answer) - {version.label}:
            raise ServerOutdatedError(f"it sampled with the weights {', '.join(sorted(labels))!r}")
        return answer

    async def serves(self, version: Version) -> bool:
        """Whether this very process was handed `version` over and proved to serve it."""
        await self._call("GET", "/health")
        info = await self._call("GET", "/weight_info")
        asleep = await self._call("GET", "/is_sleeping")
        return bool(info.get("weight_version") == version.label and not asleep.get("is_sleeping"))

    async def hand_over(self, version: Version) -> None:
        """Make the server compute with `version`, and prove it.

        The label is the last thing written: a server that carries it was proved. Raises StaleWeightsError when the
        proof fails, EngineError when the server is not set up as it must be, ServerLostError when it is gone.
        """
        self.ready = False
        await self._call("GET", "/health")
        await self._label(IN_HAND_OVER)
        asleep = (await self._call("GET", "/is_sleeping")).get("is_sleeping")
        if asleep:
            await self._call("POST", "/wake_up", params={"tags": "weights"})
        await self._reload(version.directory)
        if asleep:
            await self._call("POST", "/wake_up", params={"tags": "kv_cache"})
        # Keys and values of the old weights would be reused for prompts that begin alike.
        reset = await self._call("POST", "/reset_prefix_cache", params={"reset_running_requests": "true"})
        if not reset.get("success"):
            raise ServerLostError("its prefix cache could not be emptied")
        models = await self._call("GET", "/v1/models")
        self.max_model_len = int(models["data"][0]["max_model_len"])
        await self._prove(version)
        await self._label(version.label)

    async def sleep(self) -> None:
        """Free the memory of weights and cache until the next hand-over, which brings weights anyway."""
        self.ready = False
        await self._call("POST", "/sleep", params={"level": "2", "mode": "wait"})

    async def _reload(self, directory: Path) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        try:
            await self._call("POST", "/collective_rpc", json=body)
        except _FailedError as error:
            raise EngineError(
                f"the vLLM server {self.url} could not load {directory}: {error}. It must see this directory under "
                "this path, and must have been started from a served copy of the same model; its log says more"
            ) from error

    async def _prove(self, version: Version) -> None:
        token = int(version.probe.token_ids[0, 0])
        if (found := read_only_choice(await self._call("POST", GENERATE, json=only_choice_request(token)))) != 0.0:
            raise EngineError(
                f"the vLLM server {self.url} gives the log-probability {found:.3g} to a token that was the only "
                "choice: start it with --logprobs-mode processed_logprobs"
            )
        answers = await asyncio.gather(
            *(self._call("POST", GENERATE, json=probe_request(tokens)) for tokens in version.probe.token_ids)
        )
        served = np.stack([
            read_prompt_logprobs(answer, tokens)
            for answer, tokens in zip(answers, version.probe.token_ids, strict=True)
        ])  # fmt: skip
        answer = Answer(served, version.probe.logprobs)
        if found_wrong := objection(answer, self._previous, self._tolerance):
            raise StaleWeightsError(
                f"the vLLM server {self.url} does not serve {version.name} ({version.directory}): {found_wrong}. "
                "Nothing was sampled from it. Start it anew from a served copy; if it says so again and the weights "
                "are right, its arithmetic is coarser than the tolerance (dtype?)"
            )
        self._previous = answer
        self.probe_difference = float(np.abs(answer.served - answer.expected).max())

    async def _label(self, label: str) -> None:
        await self._call("POST", "/update_weight_version", json={"new_version": label})

    async def _call(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            response = await self._client.request(method, self.url + path, **request)
            if response.status_code >= 500:
                raise _FailedError(f"{path} answered {response.status_code}: {_told(response)}")
            if response.status_code >= 400:
                raise EngineError(
                    f"the vLLM server {self.url} refused {path} ({response.status_code}: {_told(response)}); "
                    f"it must be of vLLM 0.32 and run with {NEEDED}"
                )
            answer: dict[str, Any] = response.json() if response.content else {}
        except httpx.TransportError as error:
            raise ServerLostError(f"{path}: {type(error).__name__} {error}".rstrip()) from error
        except ValueError as error:
            raise _FailedError(f"{path} answered something that is not JSON") from error
        return answer


class _FailedError(ServerLostError):
    """The server answered, with an error of its own (5xx)."""


def _told(response: httpx.Response) -> str:
    """The server's own words, in short."""
    try:
        return str(response.json()["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return response.text[:500] or "no reason given"
