"""Loading a policy runs none of its code, in whatever file of its directory the code lies."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.sources import policy_directory
from srpo_core.settings.engine import EngineSettings


class Bomb:
    """What writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self._proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self._proof),)


def module(proof: Path) -> str:
    return f"open({str(proof)!r}, 'w')\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def pickled(path: Path, proof: Path) -> None:
    """A file of weights as torch writes one, whose reading by pickle would write the proof."""
    torch.save({"model.embed_tokens.weight": Bomb(proof)}, path)


def model_of_its_own(model: Path, proof: Path) -> None:
    (model / "own.py").write_text(module(proof))
    edit(model / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModel": "own.Model"})


def model_of_a_known_kind_with_code(model: Path, proof: Path) -> None:
    (model / "own.py").write_text(module(proof))
    edit(model / "config.json", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"})


def tokenizer_of_its_own(model: Path, proof: Path) -> None:
    (model / "own.py").write_text(module(proof))
    auto_map = {"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]}
    edit(model / "tokenizer_config.json", tokenizer_class="Own", auto_map=auto_map)


def generation_of_its_own(model: Path, proof: Path) -> None:
    (model / "custom_generate").mkdir()
    (model / "custom_generate" / "generate.py").write_text(module(proof) + "def generate(*a, **k): pass\n")


def pickled_weights(model: Path, proof: Path) -> None:
    (model / "model.safetensors").unlink()
    pickled(model / "pytorch_model.bin", proof)


def pickled_weights_of_a_safe_name(model: Path, proof: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb(proof)))


def pickled_shard_behind_a_safe_index(model: Path, proof: Path) -> None:
    (model / "model.safetensors").unlink()
    pickled(model / "shard.bin", proof)
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": "shard.bin"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def pickled_adapter(model: Path, proof: Path) -> None:
    pickled(model / "adapter_model.bin", proof)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": str(model), "target_modules": ["q_proj"], "r": 2}
    (model / "adapter_config.json").write_text(json.dumps(adapter))


def chat_template_that_imports(model: Path, proof: Path) -> None:
    call = f"{{{{ cycler.__init__.__globals__.os.mknod({str(proof)!r}) }}}}"
    edit(model / "tokenizer_config.json", chat_template=call)


ATTACKS: list[Callable[[Path, Path], None]] = [
    model_of_its_own,
    model_of_a_known_kind_with_code,
    tokenizer_of_its_own,
    generation_of_its_own,
    pickled_weights,
    pickled_weights_of_a_safe_name,
    pickled_shard_behind_a_safe_index,
    pickled_adapter,
    chat_template_that_imports,
]


def test_the_bomb_would_go_off(tmp_path: Path) -> None:
    pickled(tmp_path / "weights.bin", tmp_path / "it ran")
    with pytest.raises(AttributeError):
        torch.load(tmp_path / "weights.bin", weights_only=False)["model.embed_tokens.weight"].size()
    assert (tmp_path / "it ran").exists()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_code_in_a_policys_directory_never_runs(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Callable[[Path, Path], None]
) -> None:
    model, proof = Path(shutil.copytree(llama, tmp_path / "model")), tmp_path / "it ran"
    attack(model, proof)
    monkeypatch.chdir(model)  # where a module of its own could be imported from
    loaded = []
    for load in (load_model, load_tokenizer):
        with suppress(PolicyError):
            loaded.append(load(policy_directory(str(model), tmp_path)))
    if attack is chat_template_that_imports:
        with pytest.raises(Exception, match=r"unsafe|undefined"):
            loaded[1].apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    assert not proof.exists()


def test_pickled_weights_alone_are_refused_with_what_they_are_and_what_to_do(llama: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    pickled_weights(model, tmp_path / "it ran")
    with pytest.raises(PolicyError, match=r"no model\*\.safetensors.*pytorch_model\.bin.*pickled.*Convert"):
        load_model(model)


@pytest.mark.parametrize("spelt", ["--trust-remote-code", "--trust_remote_code", "--trust", "--trust-remote-code=True"])
def test_no_server_of_a_run_trusts_a_policys_code(spelt: str) -> None:
    with pytest.raises(ValueError, match="loading a policy never runs its code"):
        EngineSettings(kind="vllm", arguments=(spelt,))
