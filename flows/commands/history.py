"""`srpo history`: keeping a history: verify, sweep, compact, prune, export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.common import FAILED, STORE, RunArgument, StoreOption, told_errors
from flows.runs import Run, WrongUseError, open_history, open_run

if TYPE_CHECKING:
    from storage.history import RunHistory

history = typer.Typer(
    help="Keep a run's history: check it, tidy it, take data out of it. docs/history.md tells more.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

StageOption = Annotated[int | None, typer.Option("--stage", help="Training stage of the one epoch meant.")]
EpochOption = Annotated[int | None, typer.Option("--epoch", help="That epoch, counted from 0 within its stage.")]


@history.command()
def verify(
    target: Annotated[
        str, typer.Argument(metavar="RUN", help="A run of the store, or a directory or URL of one or many.")
    ],
    store: StoreOption = STORE,
) -> None:
    """Read every file again and compare it with its checksums; exit status 1 when one is damaged or missing."""
    with told_errors():
        from storage.verify import verify as verify_store

        found = verify_store(open_history(store, target))
        for fault in found.faults:
            typer.echo(f"{fault.place} {fault.what}. {fault.remedy}")
        counts = ", ".join(f"{found.files[kind]:,} {name}" for kind, name in _KINDS.items() if found.files[kind])
        typer.echo(f"read {counts}: {_size(found.bytes)}, {found.rollouts:,} committed rollouts")
        if found.pruned:
            typer.echo(f"{found.pruned:,} epochs are pruned: their shards were removed on purpose")
        if found.uncommitted:
            typer.echo(f"{found.uncommitted:,} shards belong to no committed step: of a step in work, or interrupted")
        typer.echo(f"{len(found.faults):,} faults" if found.faults else "every file is what was written")
        if found.faults:
            raise typer.Exit(FAILED)


@history.command()
def sweep(target: RunArgument, store: StoreOption = STORE) -> None:
    """Remove what killed processes left unfinished. What a living process is writing is left alone."""
    with told_errors():
        removed = _history(store, target).sweep()
        typer.echo(f"{removed:,} temporaries of killed processes removed")


@history.command()
def compact(
    target: RunArgument, store: StoreOption = STORE, stage: StageOption = None, epoch: EpochOption = None
) -> None:
    """Put the narrow rows of each finished epoch into one file, so that queries over many steps open few files.

    Nothing is removed, and nothing has to stop: training, readers and a second compaction may go on.
    """
    with told_errors():
        from storage.compaction import compact as compact_history

        one = _one_epoch(stage, epoch)
        done = compact_history(_history(store, target), one)
        for each, number in done:
            typer.echo(f"stage {each}, epoch {number} compacted")
        if not done:
            typer.echo("nothing to compact: every finished epoch is compacted already, or none is finished")


@history.command()
def prune(
    target: RunArgument,
    store: StoreOption = STORE,
    keep: Annotated[
        int | None, typer.Option("--keep-epochs", metavar="N", help="Prune all epochs but the newest N.")
    ] = None,
    stage: StageOption = None,
    epoch: EpochOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without, only what would be removed is told.")] = False,
) -> None:
    """Remove the shards of epochs: texts, token ids and log-probabilities. Rewards and decisions are kept for ever."""
    with told_errors():
        from storage.retention import epochs_to_prune, plan_pruning
        from storage.retention import prune as prune_epoch

        one, the_history = _one_epoch(stage, epoch), _history(store, target)
        if (one is None) == (keep is None):
            raise WrongUseError("say which epochs to prune: --keep-epochs N, or --stage S and --epoch E")
        plans = plan_pruning(the_history, one or epochs_to_prune(the_history, keep or 0))
        for plan in plans:
            if yes:
                prune_epoch(the_history, plan)
            what = f"{len(plan.shards):,} shards, {plan.rollouts:,} rollouts, {_size(plan.bytes)}"
            typer.echo(f"stage {plan.stage}, epoch {plan.epoch}: {what} {'removed' if yes else 'would be removed'}")
        if not plans:
            typer.echo("nothing to prune: no epoch is old enough, or all of those are pruned already")
        elif not yes:
            typer.echo("nothing was removed yet; with --yes this is done, and cannot be undone")


@history.command()
def export(
    target: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="File or folder to make; it may not exist yet.")],
    store: StoreOption = STORE,
    query: Annotated[str | None, typer.Option("--query", metavar="SQL", help="One statement that reads.")] = None,
    dataset: Annotated[
        bool, typer.Option("--dataset", help="A folder that Hugging Face's `datasets` loads, with a card.")
    ] = False,
) -> None:
    """Write a query's answer to a Parquet file (--query), or all rollouts to a dataset folder (--dataset)."""
    with told_errors():
        from storage.export import export_dataset, write_table
        from storage.readonly import open_readonly

        if dataset == (query is not None):
            raise WrongUseError('say what to export: --query "SELECT ..." to a file, or --dataset to a folder')
        if dataset:
            rollouts = export_dataset(_history(store, target), to)
            typer.echo(f"{rollouts:,} rollouts exported to {to}")
        elif query is not None:
            with open_readonly(open_history(store, target)) as readonly:
                rows = readonly.query(query)
            write_table(rows, to)
            typer.echo(f"{rows.num_rows:,} rows exported to {to}")


_KINDS = {"shards": "shards", "index": "index files", "compacted": "compacted files", "tables": "files of tables"}


def _history(store: Path, target: str) -> "RunHistory":
    """The history of a run: its name in the store, or its directory. Raises WrongUseError."""
    from storage.history import RunHistory

    directory = Path(target).absolute()
    if (directory / "settings.yaml").is_file():
        return Run(directory.parent, directory.name).history
    kept = sorted(path.name.removeprefix("run=") for path in directory.glob("index/run=*"))
    if kept:  # a history without settings, made by a program of its user's
        return RunHistory(directory, kept[0])
    return open_run(store, target).history


def _one_epoch(stage: int | None, epoch: int | None) -> list[tuple[int, int]] | None:
    if (stage is None) != (epoch is None):
        raise WrongUseError("an epoch is named by both: --stage S --epoch E")
    return None if stage is None or epoch is None else [(stage, epoch)]


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
