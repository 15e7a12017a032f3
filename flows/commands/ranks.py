"""`srpo ranks`: this machine's share of a run's updates, where several machines make them together."""

from typing import Annotated

import typer

from flows.commands.common import STORE, RunArgument, StoreOption, told_errors
from flows.runs import WrongUseError, open_run


def ranks(
    name: RunArgument,
    node: Annotated[int, typer.Option(help="This machine's number, from 1; machine 0 is where the run was started.")],
    store: StoreOption = STORE,
) -> None:
    """Take part in a run's updates, on every machine but the first, until the run is done.

    Start it before or after `srpo run`; when the run is interrupted it waits for `srpo resume`.
    """
    with told_errors():
        the_run = open_run(store, name)
        parallel = the_run.settings.update.parallel
        if not 0 < node < parallel.nodes:
            raise WrongUseError(
                f"run {name} has update.parallel.nodes {parallel.nodes}, so --node is one of "
                f"{', '.join(map(str, range(1, parallel.nodes))) or 'none: it needs one machine'}"
            )
        from flows.status import is_finished
        from flows.trainers import RANKS_LOG
        from srpo_core.policy.ranks.group import join

        log = the_run.directory / f"node-{node}-{RANKS_LOG}"
        while not is_finished(the_run):
            join(parallel, node=node, threads=the_run.settings.policy.threads, log=log)
