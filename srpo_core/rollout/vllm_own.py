"""vLLM with a server of our own: started when the first policy is loaded, and anew after it died."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from srpo_core.rollout.engine import Completion, PromptGroup, Sampling, Tell, unheard
from srpo_core.rollout.errors import EngineUnavailableError
from srpo_core.rollout.served import served_copy
from srpo_core.rollout.vllm import VllmEngine
from srpo_core.rollout.vllm_process import VllmProcess
from srpo_core.rollout.vllm_server import ServerLostError
from srpo_core.settings.engine import EngineSettings

# A server that was up and does not answer for so long is gone, or as good as gone: it is ours, and can be replaced.
PATIENCE_SECONDS = 10.0


class OwnVllmEngine:
    """Samples on a vLLM server that is started on this machine, and that ends with this process.

    When the server is lost, be it while it starts, `load` and `generate` raise EngineUnavailableError; the next `load`
    starts another.
    """

    def __init__(self, settings: EngineSettings, *, dtype: str, served: Path, log: Path) -> None:
        """`served` is a directory for what the server loads, the engine's own; `log` takes what the server says."""
        self._settings, self._dtype, self._served, self._log = settings, dtype, served, log
        self._process: VllmProcess | None = None
        self._engine: VllmEngine | None = None

    def load(self, checkpoint: Path) -> None:
        """Serve the policy stored in `checkpoint`, proved. Raises as `VllmEngine.load`, and VllmStartError."""
        if self._process is None or not self._process.runs:
            self._end()
            self._start(checkpoint)
        with self._lost_is_ended():
            self._running.load(checkpoint)

    def generate(
        self, groups: Sequence[PromptGroup], sampling: Sampling, tell: Tell = unheard
    ) -> list[list[Completion]]:
        """One list of completions per group, in the order of its seeds. Raises as `VllmEngine.generate`."""
        with self._lost_is_ended():
            return self._running.generate(groups, sampling, tell)

    def sleep(self) -> None:
        """Free the server's memory until the next `load`; a server that is lost has none, and that starts another."""
        try:
            self._running.sleep()
        except ServerLostError:
            self._end()

    def close(self) -> None:
        """End the server and remove what it was given to load. The next `load` would start another."""
        self._end()
        shutil.rmtree(self._served, ignore_errors=True)

    @property
    def probe_difference(self) -> float:
        """As `VllmEngine.probe_difference`."""
        return self._running.probe_difference

    @property
    def _running(self) -> VllmEngine:
        if self._engine is None:
            raise RuntimeError("load a policy before generating")
        return self._engine

    def _start(self, checkpoint: Path) -> None:
        copy = served_copy(checkpoint, self._served)
        self._process = VllmProcess(copy, self._settings, dtype=self._dtype, log=self._log)
        self._process.wait()
        self._engine = VllmEngine(
            [self._process.url],
            served=self._served,
            tolerance=self._settings.tolerance,
            requests_per_server=self._settings.requests_per_server,
            patience_seconds=PATIENCE_SECONDS,
            request_timeout_seconds=self._settings.request_seconds,
        )

    def _end(self) -> None:
        if self._engine is not None:
            self._engine.close()
        if self._process is not None:
            self._process.close()
        self._engine = self._process = None

    @contextmanager
    def _lost_is_ended(self) -> Iterator[None]:
        try:
            yield
        except EngineUnavailableError:
            self._end()
            raise
