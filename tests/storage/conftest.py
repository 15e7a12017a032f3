import shutil
from pathlib import Path

import pytest
from history_samples import fill

from storage.history import RunHistory


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty run, made once: making one takes a tenth of a second, copying it a hundredth."""
    history = RunHistory(tmp_path_factory.mktemp("made") / "r1", "r1")
    history.create()
    return history.directory


@pytest.fixture
def history(tmp_path: Path, made: Path) -> RunHistory:
    """An empty history of a test's own. Its history.duckdb still looks at the original: `create` mends that."""
    return RunHistory(shutil.copytree(made, tmp_path / "store" / "r1"), "r1")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    """One history for all tests that only read it."""
    history = RunHistory(tmp_path_factory.mktemp("filled") / "store" / "r1", "r1")
    history.create()
    fill(history)
    return history
