"""The engine of vLLM servers: completions sampled over HTTP, policy versions handed over without a restart.

Token ids go there and come back, and nothing is tokenised anew. Every sample of a prompt is asked for in one request,
whose seed follows from the samples' seeds (`vllm_protocol.request_seed`). So what is drawn depends on the prompt, the
seeds of its group and the weights; beyond that on rounding, which differs with what else a server computes at the
same moment. A resumed run therefore samples from the same distribution, and not always the same tokens: runs on this
engine do not resume bit for bit.

`load` gives each server the version in place and has it prove that it computes with it (`proof.py`); it needs the
versions' copies on a file system that every server sees under the same path. Putting servers to sleep was tried on
vLLM's CPU server alone, which answers and frees nothing.
"""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from srpo_core.policy.model import end_token_ids, load_tokenizer, unsampled_token_ids
from srpo_core.policy.probe import read_probe
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling, Tell, unheard
from srpo_core.rollout.errors import EngineError
from srpo_core.rollout.served import remove_copies, served_copy
from srpo_core.rollout.vllm_pool import ServerPool
from srpo_core.rollout.vllm_protocol import TEMPERATURES, Dialect, completion_request, read_completions
from srpo_core.rollout.vllm_server import Version, VllmServer

Result = TypeVar("Result")

CONNECT_SECONDS = 10.0


class VllmEngine:
    """Samples on the vLLM servers at `urls`.

    served: the directory for the copies that servers load, which is the engine's own: copies older than the last two
    are removed. tolerance: how far, in nats, a server's log-probabilities of the probe may be from the trainer's;
    1e-3 is for float32 on both sides (see `proof`).
    requests_per_server: prompts under way on a server, at most. patience_seconds: how long to go on without any
    server. request_timeout_seconds: how long one request may take before its server counts as lost.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        served: Path,
        tolerance: float = 1e-3,
        requests_per_server: int = 64,
        patience_seconds: float = 300.0,
        request_timeout_seconds: float = 600.0,
    ) -> None:
        self._served = served.absolute()
        self._loop = _LoopThread()
        # Our own limit holds the number of connections; the environment's proxies are not for servers of ours.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(request_timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        servers = [VllmServer(url, self._client, tolerance=tolerance) for url in urls]
        self._pool = ServerPool(servers, requests_per_server=requests_per_server, patience_seconds=patience_seconds)
        self._version: Version | None = None

    def load(self, checkpoint: Path) -> None:
        """Serve the policy stored in `checkpoint`, and have every server prove it.

        Raises PolicyError when the checkpoint cannot be read, StaleWeightsError when a server computes with other
        weights, EngineUnavailableError when no server is there, EngineError when one refuses.
        """
        if self._version is None:  # a run has one tokenizer, whatever the version
            tokenizer = load_tokenizer(checkpoint)
            ends = end_token_ids(checkpoint, tokenizer)
            self._dialect = Dialect(ends, unsampled_token_ids(tokenizer, ends))
        version = Version(checkpoint.name, served_copy(checkpoint, self._served), read_probe(checkpoint))
        self._loop.run(self._pool.hand_over(version))
        keep = {version.directory} | ({self._version.directory} if self._version else set())
        remove_copies(self._served, keep=keep)
        self._version = version

    def generate(
        self, groups: Sequence[PromptGroup], sampling: Sampling, tell: Tell = unheard
    ) -> list[list[Completion]]:
        """One list of completions per group, in the order of its seeds.

        Raises EngineUnavailableError when every server is gone and none comes back, StaleWeightsError when one comes
        back and cannot be brought to this version, EngineError when the servers cannot sample like this.
        """
        if self._version is None:
            raise RuntimeError("load a policy before generating")
        _require_possible(sampling)
        asked = [group for group in groups if len(group.seeds)]
        sample = partial(_sample, version=self._version, sampling=sampling, dialect=self._dialect, tell=tell)
        answers = iter(self._loop.run(self._pool.run([partial(sample, group=group) for group in asked])))
        return [next(answers) if len(group.seeds) else [] for group in groups]

    @property
    def probe_difference(self) -> float:
        """The largest difference between a server's log-probabilities of the probe and the trainer's, in nats."""
        return self._pool.probe_difference

    def sleep(self) -> None:
        """Free the servers' memory until the next `load` or `wake_up`, for a GPU that the trainer shares.

        Servers need `--enable-sleep-mode`.
        """
        self._loop.run(self._pool.sleep())

    def wake_up(self) -> None:
        """Serve the policy of the last `load` again, after `sleep`. A `load` does this by itself."""
        if self._version is not None:
            self._loop.run(self._pool.hand_over(self._version))

    def close(self) -> None:
        """Give up the connections; requests under way are aborted. The servers go on. May be called again."""
        if not self._client.is_closed:
            self._loop.run(self._client.aclose())
            self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_possible(sampling: Sampling) -> None:
    least, most = TEMPERATURES
    if not least <= sampling.temperature <= most:
        raise EngineError(
            f"vLLM samples at temperatures from {least} to {most} and not at {sampling.temperature}: "
            "set rollout.temperature in this range, or use the transformers engine"
        )


async def _sample(
    server: VllmServer, *, group: PromptGroup, version: Version, sampling: Sampling, dialect: Dialect, tell: Tell
) -> list[Completion]:
    length = len(group.prompt_token_ids) + sampling.max_new_tokens
    if length > server.max_model_len:
        raise EngineError(
            f"a prompt of {len(group.prompt_token_ids)} tokens and {sampling.max_new_tokens} new ones do not fit into "
            f"the {server.max_model_len} tokens of {server.url}: start it with --max-model-len {length} or more"
        )
    answer = await server.generate(completion_request(group, sampling, dialect), version)
    completions = read_completions(answer, group, sampling, dialect)
    tell(len(completions))
    return completions


class _LoopThread:
    """An event loop in a thread of its own, so that the engine can be called from anywhere, within a loop too."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm engine", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """The result of `work`, which ends with the caller's wait, whatever ends that."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
