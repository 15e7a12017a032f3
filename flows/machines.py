"""What kind of machine worked on a run: recorded once for each, so that a figure can be traced to what made it."""

import hashlib
import json
import platform

from flows.runs import Run
from srpo_core.problems.problem import Problem
from srpo_core.rewards.verifiers import Verifiers


def record_machine(run: Run, problems: list[Problem]) -> None:
    """Record this machine's facts, unless a machine with the same ones is recorded already.

    Refuses problems that cannot be judged here, raising UnsupportedProblemError or SandboxUnavailable, and an engine
    that cannot be started here, raising VllmStartError.
    """
    import torch

    from flows.engines import engine_facts

    with Verifiers(run.settings.verifiers, check_thought=run.settings.rewards.check_thought) as verifiers:
        verifiers.check(problems)
        isolation = verifiers.code.isolation if verifiers.runs_programs(problems) else None
    facts = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "sandbox_level": isolation.level if isolation else "not needed",
        "sandbox_reason": isolation.reason if isolation else "no program is run to judge these problems",
        **engine_facts(run.settings),
    }
    machine = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    rows = [{"machine": machine, "fact": fact, "value": value} for fact, value in facts.items()]
    run.history.publish("machines", rows, stage=0, epoch=0, name=machine)
