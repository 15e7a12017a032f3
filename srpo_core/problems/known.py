"""The data sets that are known by name: where they are published, under which licence, and how their rows are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from srpo_core.problems.examples import (
    Reader,
    Row,
    read_contest,
    read_gsm8k,
    read_humaneval,
    read_livecodebench,
    read_math,
    read_mbpp,
)
from srpo_core.problems.problem import Domain

_MATH_SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
_MBPP_SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}


@dataclass(frozen=True)
class DataSet:
    """One published data set.

    `hub` is its id on the Hugging Face hub, read configuration by configuration; `hub_files` are read instead where
    the hub has bare files. `splits` gives the hub's split of each of ours, `belongs` which rows of it count, where the
    hub (or a local file with everything) does not tell them apart.
    """

    name: str
    domain: Domain
    read: Reader
    hub: str
    splits: Mapping[str, str]
    licence: str
    configs: tuple[str | None, ...] = (None,)
    hub_files: tuple[str, ...] = ()
    belongs: Callable[[Row, str], bool] | None = None


def _mbpp_split(row: Row, split: str) -> bool:
    first, last = _MBPP_SPLITS[split]
    number = row.get("task_id")
    return isinstance(number, int) and first <= number <= last


def _in_months(row: Row, split: str) -> bool:
    """Whether a contest was in the months that a split such as `2024.08-2025.01` names; `test` is all of them."""
    first, dash, last = split.partition("-")
    month = str(row.get("contest_date") or "")[:7].replace("-", ".")
    return not dash or first <= month <= last


_ALL = (
    DataSet("gsm8k", "math", read_gsm8k, "openai/gsm8k", {"train": "train", "test": "test"}, "MIT", ("main",)),
    DataSet(
        "math",
        "math",
        read_math,
        "EleutherAI/hendrycks_math",
        {"train": "train", "test": "test"},
        "MIT",
        _MATH_SUBJECTS,
    ),
    DataSet("math500", "math", read_math, "HuggingFaceH4/MATH-500", {"test": "test"}, "MIT"),
    DataSet("aime24", "math", read_math, "math-ai/aime24", {"test": "test"}, "Apache-2.0"),
    DataSet("aime25", "math", read_math, "math-ai/aime25", {"test": "test"}, "Apache-2.0"),
    DataSet("amc23", "math", read_math, "math-ai/amc23", {"test": "test"}, "not stated"),
    DataSet(
        "mbpp",
        "code",
        read_mbpp,
        "google-research-datasets/mbpp",
        {split: split for split in _MBPP_SPLITS},
        "CC-BY-4.0",
        ("full",),
        belongs=_mbpp_split,
    ),
    DataSet("humaneval", "code", read_humaneval, "openai/openai_humaneval", {"test": "test"}, "MIT"),
    DataSet(
        "livecodebench",
        "code",
        read_livecodebench,
        "livecodebench/code_generation_lite",
        {"test": "train", "2024.08-2025.01": "train"},
        "CC (its card says no more)",
        hub_files=("test.jsonl", *(f"test{number}.jsonl" for number in range(2, 7))),
        belongs=_in_months,
    ),
    DataSet(
        "code_contests",
        "code",
        read_contest,
        "deepmind/code_contests",
        {"train": "train", "validation": "valid", "test": "test"},
        "CC-BY-4.0",
    ),
)
DATASETS: Mapping[str, DataSet] = {dataset.name: dataset for dataset in _ALL}
"""Every data set that has a name, by it."""
