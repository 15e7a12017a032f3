"""`srpo eval`: how good a policy is, on suites of problems, without training."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.common import STORE, SetOption, StoreOption, told_errors
from flows.prefect_server import prefect_api

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="RUN (its newest policy) or RUN@VERSION, else a source as in policy.model: lab, smollm2-135m, a "
        "directory, a GGUF file, a Hugging Face id.",
    ),
]
SuiteOption = Annotated[
    str,
    typer.Option(
        "--suite",
        metavar="A,B",
        help="Data sets by name or file (`math500,gsm8k:test`), `lab`, or `heldout`, a run's own. "
        "[default: heldout for a run, lab for the lab's policy]",
    ),
]


def evaluate(
    model: ModelArgument,
    suite: SuiteOption = "",
    samples: Annotated[int | None, typer.Option(min=1, help="Completions per problem.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of sampling.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest completion, in tokens.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask so many problems of each suite, not all.")] = None,
    engine: Annotated[str | None, typer.Option(help="transformers or vllm.")] = None,
    settings: Annotated[Path | None, typer.Option(help="Settings file, for a model that is no run's.")] = None,
    store: StoreOption = STORE,
    changes: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure a policy on suites of problems, without training: pass@1, pass@k, lengths, what was cut or not graded.

    What is found is kept in the store, for `srpo sql`. The same evaluation again prints what is there, and one that
    was interrupted goes on.
    """
    with told_errors():
        chosen = {
            "evaluation.samples": samples,
            "rollout.temperature": temperature,
            "rollout.max_new_tokens": max_new_tokens,
            "engine.kind": engine,
        }
        options = [f"{name}={value}" for name, value in chosen.items() if value is not None]
        suites = [name.strip() for name in suite.split(",") if name.strip()]
        with prefect_api():
            from flows.evaluate_suites import evaluate_suites

            file = str(settings) if settings is not None else None
            kept = evaluate_suites(str(store), model, suites, file, [*(changes or []), *options], limit)
        _print(store, kept, as_json)


def _print(store: Path, kept: str, as_json: bool) -> None:
    from flows import terminal
    from flows.evaluations import Evaluation, read_results

    results = read_results(Evaluation(store, kept))
    if as_json:
        terminal.print_json({"evaluation": kept, "suites": results})
    else:
        terminal.print_suites(results)
        terminal.console.print(f'history: {store / kept}   (srpo sql {kept} "FROM evaluations")')
