"""What tests of every room share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is what turns a test red; HYPOTHESIS_PROFILE=search finds new ones.
settings.register_profile("same", derandomize=True)
settings.register_profile("search", derandomize=False, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets, where they are at hand: gsm8k/, math500/, mbpp/, …"""
    named = os.environ.get("SRPO_TEST_DATA")
    place = Path(named) if named else ROOT.parent / "shared" / "data"
    if not place.is_dir():
        pytest.skip("NOT TESTED on real data sets: SRPO_TEST_DATA names the folder that holds them")
    return place


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end what this machine could not test: a skipped test is easily overlooked."""
    reasons = {str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", [])}
    if missing := sorted(reason.removeprefix("Skipped: ") for reason in reasons if "NOT TESTED" in reason):
        terminalreporter.section("NOT TESTED", red=True)
        for reason in missing:
            terminalreporter.line(reason)
