"""A run in this process goes on when the Prefect API was away, from what it committed."""

from collections.abc import Callable

from flows.faults import api_is_away
from flows.progress import announce


def outliving_the_api(run: Callable[[], object], bring_back: Callable[[], None]) -> None:
    """`run()`, again from what it committed each time that it fails because the Prefect API is away.

    `bring_back()` returns once the API answers, and raises when it does not; what it raises ends the run.
    """
    while True:
        try:
            run()
            return
        except Exception as error:
            if not api_is_away(error):
                raise
            announce(f"the Prefect API is away ({error or type(error).__name__}): waiting for it")
        bring_back()
