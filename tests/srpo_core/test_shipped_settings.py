"""Every settings file that comes with the project can be used, and the paper's says what the paper says."""

from pathlib import Path

import pytest

from srpo_core.config import Settings
from srpo_core.problems.known import DATASETS
from srpo_core.settings.problems import DataSettings
from srpo_core.settings_file import load_settings

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_settings_file_is_valid_and_its_data_sets_are_known(path: Path) -> None:
    settings = load_settings(path)
    assert isinstance(settings, Settings)
    assert path.read_text().startswith("# ")
    if isinstance(settings.problems, DataSettings):
        named = [each.name for each in (*settings.problems.train, *settings.problems.heldout) if each.name]
        assert set(named) <= set(DATASETS)


def test_the_papers_settings_are_the_papers() -> None:
    paper = load_settings(CONFIGS / "qwen2.5-32b-paper.yaml")
    assert paper.policy.model == "Qwen/Qwen2.5-32B"
    assert (paper.rollout.prompts_per_step, paper.rollout.group_size) == (256, 32)
    assert (paper.update.learning_rate, paper.update.beta1, paper.update.beta2) == (1e-6, 0.9, 0.95)
    assert paper.update.warmup_steps == 0
    assert paper.engine.kind == "vllm"
    assert paper.evaluation.samples == 32
    assert paper.resampling.selector == "history"
