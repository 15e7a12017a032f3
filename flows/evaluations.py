"""Evaluations without training: any policy, on suites of problems, kept like a run's history.

    STORE/eval-<policy>-<digest>/evaluation.yaml     what is evaluated and how; equal content has the equal name
    STORE/eval-<policy>-<digest>/data, tables, …     its history: prompts, evaluation_rollouts, evaluations

So the same evaluation again finds what is there, and one that was interrupted goes on.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from flows.heldout import HELDOUT, correct_by_problem
from flows.plan import read_problems
from flows.policies import checked_policy
from flows.problems import lab_heldout
from flows.runs import RUN_NAME, Run, WrongUseError, newest_version, open_run
from srpo_core.config import Settings
from srpo_core.evaluation import pass_at_k
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.sources import locate_policy, policy_directory
from srpo_core.problems.datasets import load_dataset, parse_dataset
from srpo_core.problems.problem import Problem
from srpo_core.problems.rows import DataError
from srpo_core.rollout.agreement import require_agreement
from srpo_core.seeds import derive_seed
from srpo_core.settings_file import default_settings, load_settings
from storage.files import publish_file
from storage.history import RunHistory

LAB = "lab"
_REAL_MODEL = ["problems.template=auto", "rollout.max_new_tokens=2048", "rollout.batch_rows=64"]
"""What an evaluation of anything but the lab's policy begins with: the defaults are the lab's."""


@dataclass(frozen=True)
class Subject:
    """A policy to be measured: a version of a run, or a source that is no run's (then `version` is 0)."""

    label: str
    facts: dict[str, Any]
    settings: Settings
    version: int = 0
    run: Run | None = None

    def directory(self, scratch: Path) -> Path:
        """Where its weights are; a GGUF file's are written into `scratch`. Raises PolicyError, RunError."""
        if self.run is not None:
            return checked_policy(self.run, self.version)
        policy = self.settings.policy
        directory = policy_directory(policy.model, scratch, revision=policy.revision)
        require_agreement(directory)  # what a run did once, for its version 0
        return directory


def find_subject(store: Path, model: str, settings: Path | None, changes: Sequence[str]) -> Subject:
    """What `model` names: RUN or RUN@VERSION of the store, else a source as in `policy.model`.

    A run is measured with its own settings, a source with those of the file `settings`; `changes` go on top. Raises
    WrongUseError, SettingsError, PolicyError, RunError.
    """
    name, _, version = model.partition("@")
    if RUN_NAME.fullmatch(name) and (store / name / "settings.yaml").is_file():
        if settings is not None:
            raise WrongUseError(f"{name} is a run and has settings: leave out --settings, --set changes one of them")
        return _version_of_run(open_run(store, name), version, changes)
    beginning = [] if model == LAB else _REAL_MODEL
    named = [f"policy.model={json.dumps(model)}", *changes]
    given = load_settings(settings, named) if settings is not None else default_settings([*beginning, *named])
    try:
        place = locate_policy(model, revision=given.policy.revision)
    except PolicyError as error:
        if "/" in model:
            raise
        known = sorted(path.parent.name for path in store.glob("*/settings.yaml"))
        raise WrongUseError(
            f"no run {name!r} is in {store} (it has {', '.join(known) or 'none'}), and {error}"
        ) from error
    facts = {"model": model, "weights": _weights(place)}
    return Subject(re.sub(r"[^A-Za-z0-9.-]+", "-", Path(model).name).strip("-.")[:32] or "model", facts, given)


def _version_of_run(run: Run, version: str, changes: Sequence[str]) -> Subject:
    if version and not re.fullmatch(r"\d{1,9}", version):
        raise WrongUseError(f"{run.name}@{version}: a version is a number, such as {run.name}@12")
    number = int(version) if version else newest_version(run)
    rows = [row for row in run.history.read("policies").to_pylist() if row["version"] == number]
    if not rows or not run.policy(number).is_dir():
        kept = sorted(str(int(path.name[-6:])) for path in (run.directory / "policies").glob("version-*"))
        raise WrongUseError(f"run {run.name} keeps no policy version {number}; it has {', '.join(kept)}")
    facts = {"run": run.name, "version": number, "weights": rows[0]["sha256"]}
    settings = load_settings(run.directory / "settings.yaml", changes)
    return Subject(f"{run.name}-v{number}", facts, settings, number, run)


def _weights(place: Path) -> str:
    """What tells these weights from others: a commit of the hub, else a SHA-256 over the files that hold them."""
    if place.parent.name == "snapshots":
        return place.name
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_suites(names: Sequence[str], subject: Subject, limit: int | None) -> dict[str, list[Problem]]:
    """The problems of each suite: `lab`, `heldout` of a run, a data set's name, or a file. Raises WrongUseError."""
    suites: dict[str, list[Problem]] = {}
    for name in names or [LAB if subject.run is None and subject.settings.policy.model == LAB else HELDOUT]:
        key = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).stem if Path(name).suffix else name).strip("-._")
        if not key or key in suites:
            raise WrongUseError(f"--suite {name}: two suites would be called {key!r}" if key else "--suite is empty")
        suites[key] = _suite(name, subject, limit)
    return suites


def _suite(name: str, subject: Subject, limit: int | None) -> list[Problem]:
    if name == HELDOUT:
        if subject.run is None:
            raise WrongUseError("name what to measure it on, such as --suite math500; only a run has held-out problems")
        return _drawn(read_problems(subject.run, "heldout"), limit, subject.settings.seed)
    if name == LAB:
        return _drawn(lab_heldout(subject.settings), limit, subject.settings.seed)
    try:
        wanted = parse_dataset(name).model_copy(update={"limit": limit})
        return load_dataset(wanted, seed=subject.settings.seed).problems
    except (ValidationError, DataError) as error:
        told = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise WrongUseError(f"--suite {name}: {told}") from error


def _drawn(problems: list[Problem], limit: int | None, seed: int) -> list[Problem]:
    """So many problems, drawn by seed and content as data sets draw them, in their order."""
    drawn = sorted(problems, key=lambda problem: derive_seed(seed, "limit", problem.id))[:limit]
    ids = {problem.id for problem in drawn}
    return [problem for problem in problems if problem.id in ids]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation's place in the store."""

    store: Path
    name: str

    @property
    def history(self) -> RunHistory:
        """What was found so far."""
        return RunHistory(self.store / self.name, self.name)


def evaluation_name(subject: Subject, limit: int | None) -> tuple[str, dict[str, Any]]:
    """The name of an evaluation, and all that it depends on: equal facts, equal name."""
    facts = {"policy": subject.facts, "limit": limit, **_what_matters(subject.settings)}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"eval-{subject.label}-{digest[:8]}", facts


def begin_evaluation(store: Path, subject: Subject, limit: int | None) -> Evaluation:
    """The evaluation of `subject` by its settings, made where it is missing. Raises StoreError."""
    name, facts = evaluation_name(subject, limit)
    evaluation = Evaluation(store.absolute(), name)
    history = evaluation.history
    history.create()
    history.sweep()

    def write(path: Path) -> None:
        path.write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")

    publish_file(history.directory / "evaluation.yaml", history.tmp_root, write)
    return evaluation


def _what_matters(settings: Settings) -> dict[str, Any]:
    """The settings that an evaluation's results depend on."""
    every = settings.model_dump(mode="json")
    chosen = {
        "policy": ("device", "dtype"),
        "problems": tuple(every["problems"]),
        "rollout": ("temperature", "max_new_tokens"),
        "rewards": tuple(every["rewards"]),
        "verifiers": tuple(name for name in every["verifiers"] if name != "workers"),
        "evaluation": ("samples",),
        "engine": ("kind",),
    }
    sections = {section: {name: every[section][name] for name in names} for section, names in chosen.items()}
    return {"seed": settings.seed, "settings": sections}


def read_results(evaluation: Evaluation) -> list[dict[str, Any]]:
    """What was found on each suite: `suite`, and `rows`, over all its problems and by class.

    A row is that of the evaluations table, and `pass_at`: pass@k for each power of two k up to the samples.
    """
    history = evaluation.history
    rollouts = history.read("evaluation_rollouts", stage=0, epoch=0).to_pylist()
    results: dict[str, list[dict[str, Any]]] = {}
    for row in history.read("evaluations", stage=0, epoch=0).to_pylist():
        if row["domain"] is not None:
            continue  # a suite has one domain, or its problems would stand in the table twice
        mine = [r for r in rollouts if r["suite"] == row["suite"] and row["difficulty"] in (None, r["difficulty"])]
        correct = correct_by_problem(mine).values()
        ks = [2**power for power in range(1, row["samples"].bit_length())]
        row["pass_at"] = {k: sum(pass_at_k(row["samples"], c, k) for c in correct) / row["n"] for k in ks}
        results.setdefault(row["suite"], []).append(row)
    return [
        {"suite": suite, "rows": rows[:1] if len(rows) == 2 else rows}  # a single class is all of them
        for suite, rows in results.items()
    ]
