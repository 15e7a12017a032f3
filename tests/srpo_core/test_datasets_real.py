"""The published data sets as they are: every row is read or counted, and their own answers are judged right."""

from collections import Counter
from pathlib import Path

import pytest
from sandbox_runs import NEEDS_LEVEL_A

from srpo_core.problems.curation import curate
from srpo_core.problems.datasets import load_dataset, parse_dataset
from srpo_core.problems.examples import Example
from srpo_core.problems.overlap import find_overlaps
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.settings.rewards import VerifierSettings

COUNTS = {
    "gsm8k:train": (7473, {}),
    "gsm8k:test": (1319, {}),
    "math:train": (7470, {"no answer": 4}),
    "math500": (500, {}),
    "mbpp:train": (374, {}),
    "mbpp:validation": (90, {}),
    "mbpp:test": (500, {}),
    "mbpp:prompt": (10, {}),
    "code_contests:test": (165, {}),
}


@pytest.fixture(autouse=True)
def _at_hand(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRPO_DATA", str(shared_data))


def verdicts(examples: list[Example]) -> Counter[str]:
    jobs = [(example.problem, example.reference) for example in examples if example.reference is not None]
    with Verifiers(VerifierSettings(workers=2), check_thought=True) as verifiers:
        verifiers.check([example.problem for example in examples])
        return Counter(judged.verdict for judged in verifiers.judge(jobs))


@pytest.mark.parametrize(("name", "expected"), COUNTS.items())
def test_every_row_is_read_or_counted(name: str, expected: tuple[int, dict[str, int]]) -> None:
    loaded = load_dataset(parse_dataset(name))
    assert (len(loaded.examples), loaded.reasons) == expected


@NEEDS_LEVEL_A
@pytest.mark.parametrize(
    ("name", "every"), [("gsm8k:train", 60), ("math500", 10), ("math:train", 90), ("mbpp:test", 20)]
)
def test_a_sample_of_solutions_is_judged_right(name: str, every: int) -> None:
    found = verdicts(load_dataset(parse_dataset(name)).examples[::every])
    assert set(found) <= {"correct", "passed"}, found


@NEEDS_LEVEL_A
@pytest.mark.slow
@pytest.mark.parametrize("name", ["gsm8k:train", "gsm8k:test", "math500", "math:train", "mbpp:train", "mbpp:test"])
def test_every_solution_is_judged_right(name: str) -> None:
    found = verdicts(load_dataset(parse_dataset(name)).examples)
    assert set(found) <= {"correct", "passed"}, found
    assert found.total() == COUNTS[name][0]


def test_little_of_gsm8k_and_math_is_dropped_but_pictures() -> None:
    examples = [e for name in ("gsm8k:train", "math:train") for e in load_dataset(parse_dataset(name)).examples][::6]
    with Verifiers(VerifierSettings(workers=2), check_thought=True) as verifiers:
        curated = curate(examples, [], verifiers)
    dropped = Counter(each.reason for each in curated.dropped)
    assert 0.03 < dropped.pop("picture") / len(examples) < 0.06
    assert dropped.total() <= 4, dropped
    assert not [each for each in curated.kept if "[asy]" in each.problem.question]


def test_math_train_resembles_math500_in_little_and_the_same_question_always() -> None:
    train = [problem.question for problem in load_dataset(parse_dataset("math:train")).problems]
    heldout = [problem.question for problem in load_dataset(parse_dataset("math500")).problems]
    found = find_overlaps(train, heldout)
    assert 5 <= sum(place is not None for place in found) <= 40
    again = find_overlaps([f"  {question.replace('$', '  ')} " for question in heldout], heldout)
    assert again == list(range(len(heldout)))
