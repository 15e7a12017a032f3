"""The bench: `python -m bench.chaos [--quick] [--kills 200] [--seed 0] [--mode inline|deployments|vllm]`.

Runs are killed again and again, until enough kills are done; each is compared with an undisturbed one. Deployed runs go
on beside inline ones, which wait for other things; runs on vLLM come last. bench/chaos/moments.py says what of a seed
can be repeated. A faulty run is kept, and told where. Figures are written after every run: who interrupts it has them.
"""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from bench.chaos.campaign import Campaign, Result, at_the_same_time
from bench.chaos.served import write_settings
from bench.chaos.summary import figures, kills_done, kills_held
from bench.figures import Options, parser, tell, write_json
from srpo_core.rollout.vllm_process import PYTHON_VARIABLE

_RUNS = Path(__file__).parents[2] / "tests" / "flows"
_SETTINGS = {"inline": _RUNS / "tiny.yaml", "deployments": _RUNS / "brief.yaml"}  # a process for each stage takes long
_PER_RUN = {"inline": 25, "deployments": 8, "vllm": 3}


def main() -> None:
    """Do what the command line asks for; exit status 1 when any run was not what it must be."""
    command = parser(str(__doc__).partition("\n")[0])
    command.add_argument("--kills", type=int, default=200, help="how many, over as many runs as it takes [200]")
    command.add_argument("--seed", type=int, default=0, help="what the moments and the victims are drawn from [0]")
    command.add_argument("--mode", choices=tuple(_PER_RUN), help="[all; inline if --quick]")
    command.add_argument("--settings", type=Path, help="of the runs [tests/flows/tiny.yaml; deployed: brief.yaml]")
    command.add_argument("--together", type=int, default=1, help="inline runs at the same time [1]")
    asked = command.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="srpo-chaos-"))
    kills = 6 if asked.quick else asked.kills
    shares = shares_of(kills, asked.mode or ("inline" if asked.quick else None))
    campaigns = {
        mode: Campaign(mode, directory, _settings(mode, asked.settings, directory), share, _PER_RUN[mode], asked.seed)
        for mode, share in shares.items()
    }
    modes = [("inline", "vllm"), *[("inline",)] * (asked.together - 1), ("deployments",)]
    rows = [[campaigns[mode] for mode in row if mode in campaigns] for row in modes]
    try:
        for result in at_the_same_time(rows):
            every = list(campaigns.values())
            print(f"{kills_done(every)} of {kills} kills, {kills_held(every)} held: {_line(result)}", flush=True)
            if asked.json:
                write_json(figures(every), asked.json)
    except KeyboardInterrupt:
        sys.exit(f"interrupted; what was under way is in {directory}")
    finally:
        tell(figures(list(campaigns.values())), Options(asked.quick, asked.json))
    if any(result.faults for campaign in campaigns.values() for result in campaign.results):
        sys.exit(f"not all is well; the runs, their logs and their plans are in {directory}")
    shutil.rmtree(directory)


def shares_of(kills: int, mode: str | None) -> dict[str, int]:
    """How many kills each mode has. Deployed ones take several times as long, those of vLLM a minute's start each."""
    has_vllm = PYTHON_VARIABLE in os.environ
    if not has_vllm and mode in (None, "vllm"):
        print(f"LEFT OUT: vLLM; {PYTHON_VARIABLE} names no Python that has it (`make vllm`)", flush=True)
    shares = {"deployments": kills // 8, "vllm": kills // 32 * has_vllm}
    shares["inline"] = kills - sum(shares.values())
    if mode is not None:
        shares = {mode: kills * (has_vllm or mode != "vllm")}
    return {each: share for each, share in shares.items() if share}


def _settings(mode: str, asked: Path | None, directory: Path) -> Path:
    return write_settings(directory / "served") if mode == "vllm" else asked or _SETTINGS[mode]


def _line(result: Result) -> str:
    struck = ", ".join(f"{kill.victim} ({kill.where})" for kill in result.outcome.kills)
    told = f"{result.mode}, {result.outcome.seconds:.0f} s: {struck}"
    wrong = result.faults
    return f"{told}: {'; '.join(wrong)}" if wrong else f"{told}: as undisturbed"


if __name__ == "__main__":
    main()
