"""What completions are sampled by."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from srpo_core.settings.secrets import is_secret
from srpo_core.settings.section import MayChange, PositiveInt, Section

Url = Annotated[str, Field(pattern=r"^https?://[^/\s?#]+(/[^\s?#]*)?$")]

# What the pipeline says to its server itself; with development endpoints on, the host above all. A file of arguments
# could say it as well.
_OURS = ("--host", "--port", "--uds", "--model", "--served-model-name", "--dtype", "--logprobs-mode", "--config")
_RUNS_CODE = "--trust-remote-code"


class EngineSettings(Section):
    """What completions are sampled by. All but `kind` is for `vllm`, see docs/engines.md."""

    kind: Literal["transformers", "vllm"] = "transformers"
    """`transformers` samples in this process, repeatable bit for bit; `vllm` asks vLLM servers over HTTP."""
    urls: Annotated[tuple[Url, ...], MayChange.ROUNDED] = ()
    """vLLM servers that run elsewhere, such as `http://10.0.0.5:8000`. Without any, the run starts one of its own, on
    the loopback, which ends with the run."""
    python: Annotated[str | None, MayChange.ROUNDED] = None
    """For a server of the run's own: the Python that has vLLM. Without one, the Python that the environment variable
    SRPO_VLLM_PYTHON names, else `.vllm/bin/python`, which `make vllm` makes."""
    port: Annotated[int, Field(ge=0, lt=65536), MayChange.ALIKE] = 0
    """For a server of the run's own: its port on the loopback. 0: a free one."""
    arguments: Annotated[tuple[str, ...], MayChange.ROUNDED] = ()
    """For a server of the run's own: further arguments, such as `[--max-model-len, "2048"]`."""
    environment: Annotated[dict[str, str], MayChange.ROUNDED] = Field(default_factory=dict)
    """For a server of the run's own: environment variables, such as `VLLM_CPU_KVCACHE_SPACE: "2"`."""
    start_seconds: Annotated[float, Field(gt=0), MayChange.ALIKE] = 600.0
    """For a server of the run's own: how long it may take until it answers, in seconds."""
    sleep: Annotated[bool, MayChange.ALIKE] = False
    """For a server of the run's own on a GPU: give its memory back while the policy is updated on the same GPU."""
    requests_per_server: Annotated[PositiveInt, MayChange.ROUNDED] = 64
    """Requests under way at a server at a time; a request is one prompt with all its samples."""
    request_seconds: Annotated[float, Field(gt=0), MayChange.ALIKE] = 600.0
    """How long a request may take until its server counts as lost and another one is asked, in seconds."""
    patience_seconds: Annotated[float, Field(gt=0), MayChange.ALIKE] = 300.0
    """How long to wait for a server that answers when none does, in seconds."""
    tolerance: Annotated[float, Field(gt=0), MayChange.ALIKE] = 1e-3
    """By how much a server's log-probabilities of the probe may differ from the trainer's, in nats, before the weights
    that it serves count as stale, which ends the step. float32 differs by some 1e-5; for bfloat16 set 1.5, see
    docs/engines.md."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if self.kind != "vllm" and (given := self._changed() - {"kind"}):
            raise ValueError(f"{', '.join(sorted(given))} of engine need engine.kind vllm, not {self.kind}")
        own = {"python", "port", "arguments", "environment", "start_seconds", "sleep"} & self._changed()
        if self.urls and own:
            raise ValueError(
                f"{', '.join(sorted(own))} of engine are for a server that the run starts, but engine.urls names "
                "servers that run elsewhere: leave out either"
            )
        for argument in self.arguments:
            _refuse_argument(argument)
        for variable in self.environment:
            if variable == "VLLM_SERVER_DEV_MODE":
                raise ValueError(f"engine.environment must not hold {variable}: weights are handed over through it")
            if is_secret(variable):
                raise ValueError(
                    f"engine.environment must not hold {variable}: settings are kept with the run and shown to "
                    "everybody. The server inherits the environment that the run is started in: set it there"
                )
        return self

    def _changed(self) -> set[str]:
        """The fields whose values are not the defaults."""
        defaults = {name: each.get_default(call_default_factory=True) for name, each in type(self).model_fields.items()}
        return {name for name, default in defaults.items() if getattr(self, name) != default}


def _refuse_argument(argument: str) -> None:
    """Raises ValueError for an option that a run's server must not be given, be it spelt with _ or cut short."""
    name = argument.partition("=")[0].replace("_", "-")
    if not name.startswith("--") or name == "--":
        return
    if _RUNS_CODE.startswith(name):
        raise ValueError(f"engine.arguments must not hold {name}: loading a policy never runs its code")
    if any(ours.startswith(name) for ours in _OURS):
        raise ValueError(
            f"engine.arguments must not hold {name}: the run sets it. Its server has vLLM's development "
            "endpoints on, through which weights are handed over and anybody could change them: it is bound "
            "to 127.0.0.1, never elsewhere"
        )
    if is_secret(name.removeprefix("--")):
        raise ValueError(
            f"engine.arguments must not hold {name}: settings are kept with the run and shown to everybody. The server "
            "inherits the environment that the run is started in: set it there"
        )
