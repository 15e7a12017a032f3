"""The `srpo` command: exit status 0 when all went well, 1 when something failed, 2 when it was used wrongly."""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from flows.changes import begin_or_change, change_run, this_person
from flows.commands.common import FAILED, STORE, Mode, ModeOption, RunArgument, SetOption, StoreOption, told_errors
from flows.commands.data import app as data
from flows.commands.deploy import deploy
from flows.commands.doctor import doctor
from flows.commands.eval import evaluate
from flows.commands.grade import app as grade
from flows.commands.history import history
from flows.commands.ranks import ranks
from flows.commands.select import select_prompts
from flows.commands.serve import serve
from flows.commands.sql import sql
from flows.imports import uncollected
from flows.prefect_server import prefect_api, quiet_prefect, require_api
from flows.runs import Run, open_run
from srpo_core.settings_file import load_settings

app = typer.Typer(
    help="Train a language model to reason with SRPO, from a SQL history of every rollout.\n\n"
    "A run is a directory in the store. Start one with `srpo run configs/demo.yaml`, look at it with"
    ' `srpo status demo`, ask it anything with `srpo sql demo "SELECT ..."`, and after any interruption go on with'
    " `srpo resume demo`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.command()
def run(
    settings: Annotated[Path, typer.Argument(metavar="SETTINGS", help="YAML file with the run's settings.")],
    run_id: Annotated[str | None, typer.Option("--run-id", help="Name of the run. [default: the file's name]")] = None,
    store: StoreOption = STORE,
    changes: SetOption = None,
    mode: ModeOption = "inline",
) -> None:
    """Train: base policy, stage 1 (math), stage 2 (math and code), evaluations, report.

    A run that was begun goes on from where it stands, under settings that were changed since where they may be; a
    finished one is left as it is.
    """
    with told_errors():
        wanted = load_settings(settings, changes or [])
        _train(begin_or_change(store, run_id or settings.stem, wanted, this_person(), typer.echo), mode)


@app.command()
def resume(
    name: RunArgument, store: StoreOption = STORE, mode: ModeOption = "inline", changes: SetOption = None
) -> None:
    """Go on with a run that was interrupted, from what it committed. It ends as if it had never stopped."""
    with told_errors():
        _train(change_run(open_run(store, name), changes or [], this_person(), typer.echo), mode)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Name of a run. [default: all]")] = None,
    store: StoreOption = STORE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Tell where a run stands: state, stages, rollouts, tokens, time by kind of work, every evaluation."""
    with told_errors():
        from flows import terminal
        from flows.status import read_status

        if name is None:
            names = sorted(path.parent.name for path in store.glob("*/settings.yaml"))
            every = [read_status(open_run(store, each)) for each in names]
            terminal.print_json([each.as_dict() for each in every]) if as_json else terminal.print_runs(every)
        elif as_json:
            terminal.print_json(read_status(open_run(store, name)).as_dict())
        else:
            terminal.print_status(read_status(open_run(store, name)))


app.command()(ranks)
app.command()(sql)
app.command(name="select")(select_prompts)
app.add_typer(history, name="history")


@app.command()
def report(name: RunArgument, store: StoreOption = STORE) -> None:
    """Write the run's report, one HTML file that needs nothing else, and say where it is."""
    with told_errors():
        from flows.report import write_report

        typer.echo(write_report(open_run(store, name)))


app.command(name="eval")(evaluate)


@app.command()
def base(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to write the model.")],
) -> None:
    """Make the lab's base policy anew, by supervised warm-up: the model that the package carries. Takes minutes."""
    with told_errors():
        from srpo_core.problems.lab.warmup import make_base

        make_base(directory)
        typer.echo(directory)


app.add_typer(grade, name="grade")
app.command()(deploy)
app.command()(serve)
app.add_typer(data, name="data")
app.command()(doctor)


@app.command()
def settings() -> None:
    """Explain every setting: its place, its type, its default and what it does (as docs/settings.md)."""
    from srpo_core.settings_reference import settings_reference

    typer.echo(settings_reference(), nl=False)


def main() -> None:
    """Entry point of the command."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: with a message, and resumable
    quiet_prefect()
    try:
        app()
    except SystemExit as ended:
        _leave(ended.code)
        raise


def _leave(status: object) -> None:
    """End at once if a stage is still at work, as after a second Ctrl-C: the interpreter must not end under it."""
    together = sys.modules.get("flows.together")
    if together is not None and together.stages_at_work():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else FAILED)


def _train(the_run: Run, mode: Mode) -> None:
    """Run what is left of the run, write its report, and tell how it ended."""
    from flows import terminal
    from flows.status import is_finished, read_status

    if not is_finished(the_run):
        _run_flows(the_run) if mode == "inline" else _run_deployed(the_run)
    elif mode == "deployments" and _ended_badly(the_run):
        _run_deployed(the_run)  # what is done: its flow run was killed before it could say so
    else:
        typer.echo(f"run {the_run.name} is done; `srpo run` with another --run-id trains again")
        if not the_run.report.is_file():
            from flows.report import write_report

            write_report(the_run)
    terminal.print_status(read_status(the_run))


def _run_flows(the_run: Run) -> None:
    """Run the run's flow in this process. Raises KeyboardInterrupt when it was interrupted."""
    from flows.kept import engines_kept

    with prefect_api(meanwhile=_import_flows) as bring_back, engines_kept():
        from prefect.exceptions import CancelledRun

        from flows.display import displayed
        from flows.outages import outliving_the_api
        from flows.request import RunRequest
        from flows.srpo import srpo

        request = RunRequest(name=the_run.name, store=str(the_run.store.absolute()), settings=None)
        try:
            with displayed():
                outliving_the_api(partial(srpo, request), bring_back)
        except CancelledRun:
            raise KeyboardInterrupt from None


def _import_flows() -> None:
    with uncollected():
        import flows.report
        import flows.sampler
        import flows.srpo
        import flows.trainers  # noqa: F401  what a run takes from the disk, which is seconds


def _ended_badly(the_run: Run) -> bool:
    require_api()

    from flows.following import ended_badly

    return ended_badly(the_run)


def _run_deployed(the_run: Run) -> None:
    """Have the run's deployment train it, and wait for its end."""
    require_api()

    from flows.following import follow, schedule

    flow_run = schedule(the_run)
    typer.echo(f"run {the_run.name} is trained by flow run {flow_run.id}; Ctrl-C ends the waiting, not the run")
    follow(the_run, flow_run)
