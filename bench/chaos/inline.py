"""One run that a process trains, killed again and again: `python -m bench.chaos.inline PLAN.json OUTCOME.json`.

The processes are forked from this one, which has imported everything: that saves seconds each, and they run the
command itself. The last one is a process of its own, as a person starts it.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from flows.prefect_server import quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

import flows.sampler
import flows.srpo
import flows.trainers  # noqa: F401
from bench.chaos.checks import Witness
from bench.chaos.moments import Moment, published
from bench.chaos.outcome import Blow, Kill, Outcome, Plan, read_plan, write_outcome
from bench.chaos.processes import adopt_orphans, ended, kill, living, reap, wait_until
from bench.chaos.servers import Server, environment
from flows.cli import main

PATIENCE_SECONDS = 600.0  # a vLLM server takes minutes to start, on a busy machine
_END_SECONDS = 20.0  # of what outlives a killed process for a moment: its server's last requests, on a busy machine
_LONGEST_OUTAGE_SECONDS = 3.0


class InlineRun:
    """One run and its processes, one after the other."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._dice, self._witness, self._starts = plan, random.Random(plan.seed), Witness(), 0
        self._directory = Path(plan.store) / plan.name
        self._said = Path(plan.store) / f"{plan.name}.stderr"
        self._environment = dict(os.environ)
        self._server: Server | None = None
        if plan.url:
            home = Path(os.environ["PREFECT_HOME"])
            own = environment(plan.url, home, Path(plan.store))
            self._server = Server(plan.url, own, Path(plan.store) / "server.log")
        self.outcome = Outcome()

    def run(self) -> None:
        """Begin the run, strike it as planned, and bring it to its end."""
        if self._server is not None:
            self._server.start()
        began, process = time.monotonic(), None
        for blow in self._plan.blows:
            process = process or self._start()
            if not self._await(blow.moment, process):
                break
            process = self._strike(blow, process)
        if process is not None:
            self._look_after(process)
        self._finish()
        self.outcome.seconds = time.monotonic() - began
        if self._server is not None:
            self._server.kill()
        self._count_orphans([])

    def _command(self) -> list[str]:
        """What begins the run, or goes on with it: `srpo run` with the same settings does either."""
        self._starts += 1
        run = ["run", self._plan.settings, "--run-id", self._plan.name]
        resume = ["resume", self._plan.name]
        chosen = resume if self._starts > 1 and self._dice.random() < 0.5 else run
        if self._starts > 1:
            self.outcome.resumed.append(f"srpo {chosen[0]}")
        return [*chosen, "--store", self._plan.store]

    def _start(self) -> int:
        command = self._command()
        process = os.fork()
        if process == 0:
            with self._said.open("wb") as said, Path(os.devnull).open("wb") as nothing:
                os.dup2(said.fileno(), 2)
                os.dup2(nothing.fileno(), 1)
            sys.argv = ["srpo", *command]
            main()
        return process

    def _await(self, moment: Moment, process: int) -> bool:
        """Whether the moment came before the process ended."""
        file = self._directory / moment.after
        if not wait_until(lambda: file.is_file() or ended(process), PATIENCE_SECONDS):
            self.outcome.faults.append(f"stuck before {moment.after}")
            kill(process)
        wait_until(lambda: ended(process), moment.seconds)
        return not ended(process)

    def _strike(self, blow: Blow, process: int) -> int | None:
        """Kill the victim; gives the run's process if it goes on."""
        newest = max(published(self._directory), key=lambda path: path.stat().st_mtime_ns, default=self._directory)
        victims = self._victims(blow, process)
        kill(*victims)
        struck = "process" if process in victims else blow.victim
        survived = struck != "process" and self._survives(blow, process)
        self.outcome.kills.append(Kill(struck, blow.moment.where, str(newest.relative_to(self._directory)), survived))
        if survived:
            return process
        self._look_after(process, killed=struck == "process")
        return None

    def _victims(self, blow: Blow, process: int) -> list[int]:
        """Whom to kill: the run's process where its server or engine is not there, not yet or not any more."""
        if blow.victim == "server" and self._server is not None and self._server.process is not None:
            return [self._server.process.pid]
        names = {"server": "flows.prefect_server", "engine": "vllm.entrypoints.openai.api_server"}
        below = living(process) if blow.victim in names else {}
        return [each for each, command in below.items() if command[1:3] == ["-m", names[blow.victim]]] or [process]

    def _survives(self, blow: Blow, process: int) -> bool:
        """Whether the run's process publishes something once its server is back, if that can be started again."""
        if blow.victim == "server" and self._server is not None:
            self._server.kill()
            time.sleep(_LONGEST_OUTAGE_SECONDS * self._dice.random())
            self._server.start()
        before = len(published(self._directory))
        if not wait_until(lambda: ended(process) or len(published(self._directory)) > before, PATIENCE_SECONDS):
            self.outcome.faults.append(f"stuck after the {blow.victim} was killed {blow.moment}")
            kill(process)
        return not ended(process)

    def _look_after(self, process: int, *, killed: bool = False) -> None:
        """After the end of a process: what it said if it ended by itself, what it left, what is committed."""
        if not wait_until(lambda: ended(process), PATIENCE_SECONDS):
            self.outcome.faults.append("a process of the run does not end")
            kill(process)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if not killed and status != 0:
            self._listen(self._said.read_text(errors="replace"), status)
        self._count_orphans([] if self._server is None or self._server.process is None else [self._server.process.pid])
        self.outcome.rewritten += self._witness.look(self._directory)

    def _listen(self, said: str, status: int) -> None:
        self.outcome.said.append(said)
        if status != 1 or "Traceback" in said:
            self.outcome.faults.append(f"ended with status {status}: {said[-2000:]}")

    def _count_orphans(self, ours: list[int]) -> None:
        """What is left of processes that a dead one started, after the moment that they may take."""

        def orphans() -> dict[int, list[str]]:
            reap(ours)
            return {each: command for each, command in living().items() if each not in ours}

        if not wait_until(lambda: not orphans(), _END_SECONDS):
            left = orphans()
            self.outcome.orphans += [" ".join(command) for command in left.values()]
            kill(*left)

    def _finish(self) -> None:
        """The end of the run, by a process of its own; notes how long the first new step took."""
        steps = len(list(self._directory.glob("index/**/step-*.parquet")))
        began = time.monotonic()
        with self._said.open("wb") as said:
            command = [sys.executable, "-m", "flows", *self._command()]
            process = subprocess.Popen(command, env=self._environment, stdout=subprocess.DEVNULL, stderr=said)

        def more() -> bool:
            return len(list(self._directory.glob("index/**/step-*.parquet"))) > steps

        wait_until(lambda: more() or process.poll() is not None, PATIENCE_SECONDS)
        if more():
            self.outcome.first_step_seconds.append(time.monotonic() - began)
        if status := process.wait():
            self._listen(self._said.read_text(errors="replace"), status)
            self.outcome.faults.append("the run did not end")
        self.outcome.rewritten += self._witness.look(self._directory)


if __name__ == "__main__":
    adopt_orphans()
    harness, told = os.getpid(), Path(sys.argv[2])
    run = InlineRun(read_plan(Path(sys.argv[1])))
    try:
        run.run()
    finally:
        if os.getpid() == harness:  # a forked process ends by this way too
            kill(*living())
            write_outcome(run.outcome, told)
