"""A model that would be computed wrongly is refused where it comes in, before anything is made of it."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from flows.evaluations import find_subject
from flows.prepare import write_base_policy
from flows.runs import create_run
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_tokenizer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.settings_file import load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that transformers loads as a causal one, and that sees what comes after."""
    directory = tmp_path_factory.mktemp("policies") / "bert"
    torch.manual_seed(0)
    tokenizer = load_tokenizer(base_policy_dir())
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_run_does_not_begin_with_it(bert: Path, tmp_path: Path) -> None:
    settings = load_settings(ROOT / "configs/demo.yaml", [f"policy.model={bert}"])
    run = create_run(tmp_path / "runs", "r1", settings)
    with pytest.raises(PolicyError, match="models of type bert are not supported"):
        write_base_policy.fn(run)
    assert not run.policy(0).exists()


def test_it_is_not_measured(bert: Path, tmp_path: Path) -> None:
    subject = find_subject(tmp_path, str(bert), None, [])
    with pytest.raises(PolicyError, match="models of type bert are not supported"):
        subject.directory(tmp_path)
