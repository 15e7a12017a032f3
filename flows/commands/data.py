"""`srpo data`: the data sets that are known, problems made fit for training, and how hard they are for a policy."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from flows.commands.common import SetOption, told_errors
from flows.runs import RunError, WrongUseError
from srpo_core.problems.curation import Curated, curate
from srpo_core.problems.datasets import Loaded, load_dataset, parse_dataset
from srpo_core.problems.known import DATASETS
from srpo_core.problems.rows import DataError
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.settings.problems import DatasetSettings
from srpo_core.settings_file import default_settings, load_settings

app = typer.Typer(help="Data sets: what is known, made fit for training, labelled.", no_args_is_help=True)

_SOURCE = "A known data set (gsm8k:train, math500) or a file (.jsonl, .json, .parquet)."
OutOption = Annotated[Path, typer.Option("--out", metavar="FILE", help="What to write: .jsonl or .parquet.")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="A file's own name for a column. Repeatable."),
]
DomainOption = Annotated[str | None, typer.Option("--domain", help="math or code, for files without a column of it.")]


@app.command(name="list")
def list_known() -> None:
    """The data sets that are known by name: domain, splits, where they are published, licence."""
    for dataset in DATASETS.values():
        splits = ", ".join(dataset.splits)
        typer.echo(f"{dataset.name:15}{dataset.domain:6}{splits:34}{dataset.hub:38}{dataset.licence}")


@app.command(name="curate")
def curate_problems(
    sources: Annotated[list[str], typer.Argument(metavar="DATA...", help=_SOURCE)],
    out: OutOption,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="DATA", help="Held-out data; what resembles it is dropped. Repeatable."),
    ] = None,
    domain: DomainOption = None,
    columns: ColumnOption = None,
    changes: SetOption = None,
) -> None:
    """Write the problems that are fit for training; FILE.dropped.jsonl lists each of the others with its reason.

    Dropped are pictures, proofs, several questions in one, URLs and HTML, code that needs files, network or more than
    the standard library, duplicates, what resembles held-out problems, and answers that our verifiers cannot use.
    """
    with told_errors():
        from flows.data_files import check_output, problem_row, write_rows

        settings = default_settings(changes or [])
        listed = out.with_name(f"{out.stem}.dropped.jsonl")
        check_output(out)
        check_output(listed)
        every = [_load(source, domain, columns) for source in sources]
        heldout = [problem for source in against or [] for problem in _load(source, None, None).problems]
        examples = {example.problem.id: example for loaded in every for example in loaded.examples}
        with Verifiers(settings.verifiers, check_thought=True) as verifiers:
            curated = curate(list(examples.values()), heldout, verifiers)
        write_rows(listed, _dropped_rows(every, curated))
        if not curated.kept:
            raise RunError(f"no problem is left; {listed} tells why")
        write_rows(out, [problem_row(example) for example in curated.kept])
        _tell(every, len(examples), curated, out, listed)


@app.command()
def label(
    file: Annotated[str, typer.Argument(metavar="DATA", help=_SOURCE)],
    out: OutOption,
    policy: Annotated[str, typer.Option("--policy", help="Whose difficulty: what `policy.model` may be.")],
    samples: Annotated[int, typer.Option("--samples", min=1, help="Rollouts of each problem, k.")] = 8,
    settings: Annotated[Path | None, typer.Option(help="Settings file: engine, template, lengths, verifiers.")] = None,
    domain: DomainOption = None,
    columns: ColumnOption = None,
    changes: SetOption = None,
) -> None:
    """Write the problems with their difficulty for a policy: easy, medium or hard by k rollouts, and the pass rate.

    Interrupted, it goes on from FILE.partial when it is started again.
    """
    with told_errors():
        from flows.data_files import check_output
        from flows.engines import engine_directory
        from flows.labels import label_problems
        from srpo_core.policy.sources import policy_directory
        from srpo_core.rollout.agreement import require_agreement

        check_output(out)
        told = changes or []
        read = load_settings(settings, told) if settings else default_settings(["problems.template=auto", *told])
        loaded = _load(file, domain, columns)
        with engine_directory() as scratch:
            directory = policy_directory(policy, scratch)
            require_agreement(directory)
            counts = label_problems(loaded, out, directory, read, samples, lambda line: typer.echo(line, err=True))
        typer.echo(f"{out}: {', '.join(f'{count} {name}' for name, count in counts.items())}")


def _load(source: str, domain: str | None, columns: Sequence[str] | None) -> Loaded:
    """The data set that a command names. Raises WrongUseError, RunError."""
    pairs = [column.partition("=") for column in columns or []]
    if not all(theirs for _, _, theirs in pairs):
        raise WrongUseError("--column: write it as OURS=THEIRS, such as --column question=prompt")
    try:
        wanted = parse_dataset(source)
        if wanted.name is None:
            mapped = {ours: theirs for ours, _, theirs in pairs}
            wanted = DatasetSettings.model_validate({"path": wanted.path, "domain": domain, "columns": mapped})
        return load_dataset(wanted)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise WrongUseError(f"{source}: {reason}") from error
    except DataError as error:
        raise RunError(str(error)) from error


def _dropped_rows(every: Sequence[Loaded], curated: Curated) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"origin": loaded.origin, "row": refused.row, "reason": "unusable row", "detail": refused.reason}
        for loaded in every
        for refused in loaded.refused
    ]
    return rows + [
        {
            "origin": dropped.problem.source,
            "reason": dropped.reason,
            "detail": dropped.detail,
            "domain": dropped.problem.domain,
            "question": dropped.problem.question,
            "answer": dropped.problem.answer,
        }
        for dropped in curated.dropped
    ]


def _tell(every: Sequence[Loaded], examples: int, curated: Curated, out: Path, listed: Path) -> None:
    for loaded in every:
        typer.echo(f"{loaded.origin}: {len(loaded.examples)} problems, {len(loaded.refused)} rows that give none")
        for reason, count in loaded.reasons.items():
            typer.echo(f"  {count:6} {reason}")
    if repeated := sum(len(loaded.examples) for loaded in every) - examples:
        typer.echo(f"{repeated} of them are in more than one")
    for reason, count in Counter(dropped.reason for dropped in curated.dropped).most_common():
        typer.echo(f"  {count:6} dropped: {reason}")
    unproved = (
        f", {curated.unproved} of them code without a solution that could prove its tests" if curated.unproved else ""
    )
    typer.echo(f"{out}: {len(curated.kept)} problems{unproved}")
    typer.echo(f"{listed}: what was dropped, each with its reason")
