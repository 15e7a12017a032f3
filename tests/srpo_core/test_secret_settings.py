"""Settings hold no credentials: they are kept with the run, shown in its report and sent as parameters."""

import json
from pathlib import Path

import pytest

from srpo_core.settings_file import SettingsError, load_settings

PASSWORD = "hunter2"
URL = f"http://user:{PASSWORD}@10.0.0.5:8000"


def complaint(tmp_path: Path, *overrides: str) -> str:
    (path := tmp_path / "settings.yaml").write_text("engine: {kind: vllm}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, overrides)
    assert caught.value.__cause__ is None, "what it came from has the values in full, and would be logged"
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("history.url", f"s3://key:{PASSWORD}@bucket/prefix"),
        ("history.url", f"s3://{PASSWORD}@bucket"),
        ("engine.urls", json.dumps(["http://10.0.0.5:8000", URL])),
        ("engine.arguments", json.dumps(["--middleware", URL])),
        ("engine.environment", json.dumps({"HTTPS_PROXY": URL})),
        ("engine.python", URL),
        ("policy.model", URL),
        ("update.kl.reference", URL),
        ("problems.template", URL),
        ("seed", URL),
    ],
)
def test_credentials_in_a_url_are_refused_and_not_repeated(tmp_path: Path, place: str, value: str) -> None:
    told = complaint(tmp_path, f"{place}={value}")
    assert f"  {place}: holds a user or a password in a URL" in told
    assert "environment" in told
    assert PASSWORD not in told


def test_credentials_in_a_data_sets_place_are_refused_and_not_repeated(tmp_path: Path) -> None:
    told = complaint(tmp_path, f"problems={{source: datasets, train: [{{path: '{URL}'}}], heldout: [{{path: b}}]}}")
    assert "problems.train.0.path: holds a user or a password" in told
    assert PASSWORD not in told


@pytest.mark.parametrize("override", [f"engine.urls=[{URL}", URL, f"nothing={URL}", f"engine.urls.{URL}=1"])
def test_an_override_that_cannot_be_used_is_told_without_its_credentials(tmp_path: Path, override: str) -> None:
    assert PASSWORD not in complaint(tmp_path, override)


@pytest.mark.parametrize("name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "VLLM_API_KEY", "DB_PASSWORD", "hf_token"])
def test_secrets_are_no_environment_of_a_server_in_the_settings(tmp_path: Path, name: str) -> None:
    told = complaint(tmp_path, f"engine.environment={{{name}: {PASSWORD}}}")
    assert f"engine.environment must not hold {name}" in told
    assert "inherits the environment" in told
    assert PASSWORD not in told


@pytest.mark.parametrize("option", ["--api-key", "--api_key", "--hf-token", f"--api-key={PASSWORD}"])
def test_secrets_are_no_arguments_of_a_server_in_the_settings(tmp_path: Path, option: str) -> None:
    told = complaint(tmp_path, f"engine.arguments={json.dumps([option, PASSWORD])}")
    assert "engine.arguments must not hold --" in told
    assert PASSWORD not in told


@pytest.mark.parametrize(
    "override",
    [
        "engine.urls=[http://10.0.0.5:8000, https://host/some@path]",
        "engine.arguments=[--max-model-len, '2048', --tokenizer-mode, auto, --max-num-batched-tokens, '8']",
        "engine.environment={VLLM_CPU_KVCACHE_SPACE: '2', TOKENIZERS_PARALLELISM: 'false'}",
        "history.url=s3://bucket/prefix",
        "policy.model=org/name",
    ],
)
def test_what_is_no_secret_is_none(tmp_path: Path, override: str) -> None:
    (path := tmp_path / "settings.yaml").write_text("engine: {kind: vllm}\n")
    load_settings(path, [override])


@pytest.mark.parametrize("option", ["--host", "--ho", "--served_model_name", "--config", "--config=a.yaml", "--uds"])
def test_what_the_run_says_to_its_server_is_refused_however_it_is_spelt(tmp_path: Path, option: str) -> None:
    assert "the run sets it" in complaint(tmp_path, f"engine.arguments=['{option}']")
