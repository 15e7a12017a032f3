"""Processes, descriptors and memory: nothing stays behind, whatever dies, and many pools live together."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sandbox_runs import NEEDS_LEVEL_A, PROGRAM, Runner, runner

from srpo_core.rewards import code
from srpo_core.rewards.code import CodeTests, CodeVerifier
from srpo_core.sandbox import Limits, Profile, SandboxError
from srpo_core.sandbox.profile import Level
from srpo_core.sandbox.supervisor import Task, run_together
from srpo_core.sandbox.zygote import Zygote

__all__ = ["runner"]

ROOT = Path(__file__).parents[2]
ADD = CodeTests(asserts=("assert add(1, 2) == 3",))
RIGHT = "def add(a, b): return a + b"
STATES = [
    RIGHT,
    "def add(a, b): return 0",
    "import os\nos._exit(0)",
    "def add(",
    "raise ValueError",
    "print('x' * 10**5)",
]


def descendants(pid: int) -> set[int]:
    """All processes below one, from what the kernel tells of parents."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting += below
    return found


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def churn(verifier: CodeVerifier, jobs: int) -> None:
    """In batches, so that a long list of results is not taken for a leak."""
    programs = [(STATES[number % len(STATES)], ADD) for number in range(40)]
    for _ in range(jobs // 40):
        verdicts = {judged.verdict for judged in verifier.judge(programs)}
        assert verdicts == {"passed", "wrong_answer", "runtime_error", "compile_error"}


def check_no_growth(jobs: int) -> None:
    here = os.getpid()
    before = descendants(here)
    with CodeVerifier(workers=2) as verifier:
        churn(verifier, 40)
        descriptors, processes = len(os.listdir("/proc/self/fd")), len(descendants(here))
        memory = resident(here) + sum(resident(pid) for pid in descendants(here) - before)
        churn(verifier, jobs)
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert len(descendants(here)) == processes
        assert not [pid for pid in descendants(here) if state(pid) == "Z"]
        grown = resident(here) + sum(resident(pid) for pid in descendants(here) - before) - memory
        assert grown < 8 * 2**20
    assert descendants(here) == before


@NEEDS_LEVEL_A
def test_hundreds_of_jobs_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """With zygotes that retire after every 50 jobs, so that retiring is counted too."""
    monkeypatch.setattr(code, "_JOBS_OF_A_ZYGOTE", 50)
    check_no_growth(400)


@NEEDS_LEVEL_A
@pytest.mark.slow
def test_twenty_thousand_jobs_leave_nothing_behind() -> None:
    check_no_growth(20_000)


@NEEDS_LEVEL_A
@pytest.mark.parametrize("level", ["A", "B"])
def test_killing_the_caller_ends_every_process(level: Level) -> None:
    """While a program runs that would not end by itself."""
    program = (
        "import os, sys\nfrom srpo_core.sandbox import Limits, Profile\n"
        "from srpo_core.sandbox.supervisor import Task, run_together\nfrom srpo_core.sandbox.zygote import Zygote\n"
        f"z = Zygote(Profile({level!r}), [{PROGRAM!r}])\nread, write = os.pipe()\n"
        "code = 'import os, time\\nos.write(1, bytes(10**6))\\nwhile True: pass'\n"
        f"task = Task(z, {PROGRAM!r}, {{'code': code}}, Limits(wall_seconds=600, cpu_seconds=600))\n"
        "import threading, time\nthreading.Thread(target=run_together, args=([task],), daemon=True).start()\n"
        "while z.jobs == 0: pass\nprint('running', flush=True)\ntime.sleep(600)"
    )
    caller = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert caller.stdout is not None
    assert caller.stdout.readline() == "running\n"
    below = descendants(caller.pid)
    watched = [os.pidfd_open(pid) for pid in below]
    assert len(below) >= (2 if level == "A" else 1)
    caller.kill()
    caller.wait()
    for handle in watched:  # readable when the process has ended
        assert _ends(handle)
        os.close(handle)


def _ends(handle: int) -> bool:
    import select

    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(30_000))


@NEEDS_LEVEL_A
def test_a_zygote_outlives_the_thread_that_asked_for_it() -> None:
    """The kernel ends a process with the thread that started it, if it is told to die with its parent."""
    made: list[Zygote] = []
    thread = threading.Thread(target=lambda: made.append(Zygote(Profile("A"), [PROGRAM])))
    thread.start()
    thread.join()
    outcome = run_together([Task(made[0], PROGRAM, {"code": "print(1)"}, Limits())])[0]
    made[0].close()
    assert outcome.output == b"1\n"


@NEEDS_LEVEL_A
def test_a_dead_sandbox_is_replaced_and_the_job_tried_again() -> None:
    before = descendants(os.getpid())
    with CodeVerifier() as verifier:
        assert verifier.judge([(RIGHT, ADD)])[0].verdict == "passed"
        for pid in descendants(os.getpid()) - before:
            os.kill(pid, 9)
        assert verifier.judge([(RIGHT, ADD)])[0].verdict == "passed"


@NEEDS_LEVEL_A
def test_a_sandbox_that_fails_twice_leaves_the_job_ungraded(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(*_: object) -> None:
        tries.append(1)
        raise SandboxError("no more processes")

    with CodeVerifier() as verifier:
        assert verifier.isolation.level == "A"
        monkeypatch.setattr(code, "Zygote", fail)
        judgement = verifier.judge([(RIGHT, ADD)])[0]
    assert (judgement.verdict, judgement.message, len(tries)) == ("sandbox_error", "no more processes", 2)


@NEEDS_LEVEL_A
def test_several_pools_judge_at_once_from_several_threads() -> None:
    verdicts: list[str] = []

    def use(verifier: CodeVerifier) -> None:
        verdicts.extend(judged.verdict for judged in verifier.judge([(RIGHT, ADD)] * 5))

    with CodeVerifier(workers=2) as one, CodeVerifier() as two:
        threads = [threading.Thread(target=use, args=(verifier,)) for verifier in (one, two, one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert verdicts == ["passed"] * 20


@NEEDS_LEVEL_A
def test_it_starts_beside_torch_and_its_threads() -> None:
    """No process of ours is ever forked off the caller, whose threads may hold locks."""
    program = (
        "import torch\ntorch.set_num_threads(4)\ntorch.ones(512, 512) @ torch.ones(512, 512)\n"
        "from srpo_core.rewards.code import CodeTests, CodeVerifier\n"
        "with CodeVerifier(workers=2) as v:\n"
        f"    print({{j.verdict for j in v.judge([({RIGHT!r}, CodeTests(asserts=('assert add(1, 2) == 3',)))] * 6)}})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("{'passed'}\n", "")


def test_importing_the_verifier_imports_nothing_heavy() -> None:
    program = "import sys\nimport srpo_core.rewards.code\nprint({'torch', 'numpy', 'sympy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@NEEDS_LEVEL_A
def test_the_same_set_has_the_same_order_in_every_sandbox() -> None:
    """Else a program whose answer hangs on it would be right in one run and wrong in the next."""
    program = {"code": "print(list({'alpha', 'beta', 'gamma', 'delta'}), hash('epsilon'))"}
    outputs = set()
    for _ in range(3):
        zygote = Zygote(Profile("A"), [PROGRAM])
        outputs.add(run_together([Task(zygote, PROGRAM, program, Limits())])[0].output)
        zygote.close()
    assert len(outputs) == 1


@NEEDS_LEVEL_A
def test_a_lock_that_cannot_be_put_on_stops_the_job(runner: Runner) -> None:
    """Here a limit that the kernel cannot take: nothing is run."""
    with pytest.raises(SandboxError, match="could not be locked: OverflowError"):
        runner.run("print('GOT')", limits=Limits(cpu_seconds=1e30))
