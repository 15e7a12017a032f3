"""The engine that flows sample with: chosen by the settings here and nowhere else.

A model takes seconds to load, a vLLM server a minute to start: a process keeps its engine, and the server with it, from
flow to flow; `engines_kept` ends it. A process that dies takes its server along.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from flows.handover import Weights
from flows.kept import engines_kept, kept
from srpo_core.config import Settings
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.probe import PROBE_FILE, write_probe
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.rollout.vllm import VllmEngine
from srpo_core.rollout.vllm_own import OwnVllmEngine
from srpo_core.rollout.vllm_process import served_version, vllm_versions

LOG = "vllm.log"
SERVED = "served"


@dataclass
class Engine:
    """An engine, and the policy that it was given last, if it is known to have it."""

    sampling: TransformersEngine | VllmEngine | OwnVllmEngine
    directory: Path
    loaded: Path | None = None
    tokenizer: PreTrainedTokenizerBase | None = None  # a run has one, whatever the version

    def load(self, checkpoint: Path) -> None:
        """Sample from the policy in `checkpoint` from now on, be it a published version or a bare model."""
        if checkpoint == self.loaded:
            return
        self.loaded = None
        if self.tokenizer is None:
            self.tokenizer = load_tokenizer(checkpoint)
        if isinstance(self.sampling, TransformersEngine) or (checkpoint / PROBE_FILE).is_file():
            self.sampling.load(checkpoint)
        else:
            self.sampling.load(_with_probe(checkpoint, self.directory))
        self.loaded = checkpoint

    @property
    def takes_weights(self) -> bool:
        """Whether it can `take` weights: it is in this process and has loaded a version of the same model before."""
        return isinstance(self.sampling, TransformersEngine) and self.sampling.has_policy

    def take(self, checkpoint: Path, weights: Weights) -> bool:
        """Sample from a copy of `weights`, which are or will be those in `checkpoint`; False when it cannot."""
        if not isinstance(self.sampling, TransformersEngine) or not self.sampling.has_policy:
            return False
        if checkpoint != self.loaded:
            self.loaded = None
            self.sampling.take(weights)
            self.loaded = checkpoint
        return True

    def close(self) -> None:
        """End the servers that it has."""
        if isinstance(self.sampling, VllmEngine | OwnVllmEngine):
            self.sampling.close()


def open_engine(settings: Settings, directory: Path) -> Engine:
    """The engine that the settings ask for; `directory` is where it keeps its log and what its servers load."""
    return kept(directory, lambda: Engine(_engine(settings, directory), directory))


def _engine(settings: Settings, directory: Path) -> TransformersEngine | VllmEngine | OwnVllmEngine:
    if settings.engine.kind != "transformers":
        return _vllm_engine(settings, directory)
    policy, rows = settings.policy, settings.rollout.batch_rows
    return TransformersEngine(batch_rows=rows, dtype=policy.dtype, device=policy.device)


def _vllm_engine(settings: Settings, directory: Path) -> VllmEngine | OwnVllmEngine:
    engine, served = settings.engine, directory / SERVED
    if not engine.urls:
        return OwnVllmEngine(engine, dtype=settings.policy.dtype, served=served, log=directory / LOG)
    return VllmEngine(
        engine.urls,
        served=served,
        tolerance=engine.tolerance,
        requests_per_server=engine.requests_per_server,
        patience_seconds=engine.patience_seconds,
        request_timeout_seconds=engine.request_seconds,
    )


def _with_probe(model: Path, directory: Path) -> Path:
    """A bare model beside what servers must answer with it, which the trainer writes for the versions it publishes."""
    made = directory / "bare" / model.name
    if not (made / PROBE_FILE).is_file():
        made.mkdir(parents=True, exist_ok=True)
        for path in model.iterdir():
            (made / path.name).unlink(missing_ok=True)
            (made / path.name).symlink_to(path.absolute())
        write_probe(made, load_model(model))
    return made


def engine_facts(settings: Settings) -> dict[str, str]:
    """What of the engine belongs to the machine: versions of vLLM. Raises VllmStartError where there is no vLLM."""
    engine = settings.engine
    if engine.kind == "transformers":
        return {}
    if not engine.urls:
        return vllm_versions(engine)
    return {f"vllm at {url}": served_version(url) for url in engine.urls}


@contextmanager
def engine_directory() -> Iterator[Path]:
    """A directory for the engine of a process that has no run; it stays, for its log, when the block fails."""
    directory = Path(tempfile.mkdtemp(prefix="srpo-engine-"))
    with engines_kept():
        yield directory
    shutil.rmtree(directory)
