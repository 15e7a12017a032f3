"""The probe, and levels below A, for real: level B runs as an unused user without bubblewrap."""

import dataclasses
import json
import os
import subprocess
import warnings
from pathlib import Path

import pytest
from sandbox_runs import ALL, NEEDS_LEVEL_A, Bait, Runner, bait, level_a_is_closed, runner, without

from srpo_core.rewards.code import CodeTests, CodeVerifier
from srpo_core.sandbox import Isolation, Limits, Profile, SandboxError, SandboxUnavailable, isolation, probe, profile
from srpo_core.sandbox.inside import landlock, seccomp
from srpo_core.sandbox.isolation import try_level
from srpo_core.sandbox.profile import Level

ROOT = Path(__file__).parents[2]
__all__ = ["bait", "runner"]

ADD = CodeTests(asserts=("assert add(1, 2) == 3",))


def test_this_machine_offers_level_a() -> None:
    if reason := level_a_is_closed():
        told = f"{reason}. Install bubblewrap (Debian: apt-get install bubblewrap), and allow user namespaces"
        assert "SRPO_REQUIRE_LEVEL_A" not in os.environ, told
        pytest.skip(f"NOT TESTED, sandbox level A: {told}")


@NEEDS_LEVEL_A
def test_the_probe_finds_level_a_and_tells_it_as_plain_data() -> None:
    found = probe()
    assert found.level == "A"
    assert probe() is found
    assert Isolation(**json.loads(json.dumps(dataclasses.asdict(found))) | {"findings": ()}) == found


def test_nothing_gets_out_of_level_b() -> None:
    assert try_level(Profile("B")) == (None, [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start as another user")
@pytest.mark.parametrize("level", ["A", "B"])
def test_nothing_gets_out_when_a_user_without_rights_starts_it(level: Level) -> None:
    """At level B it is the same user inside and outside: only the filter and Landlock stand between."""
    python = next((path for path in (profile.interpreter(), "/usr/bin/python3") if may_run(path)), None)
    if python is None:
        pytest.skip("every interpreter, or this tree, lies where only root may go")
    program = (
        "import os, sys\nos.setgroups([])\nos.setresgid(12345, 12345, 12345)\nos.setresuid(12345, 12345, 12345)\n"
        "from srpo_core.sandbox.isolation import try_level\nfrom srpo_core.sandbox import Profile\n"
        f"print(try_level(Profile({level!r})))"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([python, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(None, [])\n", "")


def may_run(python: str) -> bool:
    """Whether a user without rights may run that interpreter, and it is new enough for this tree."""
    test = f"import os, sys\nos.setuid(12345)\nos.listdir({str(ROOT)!r})\nassert sys.version_info >= (3, 11)"
    everybody = all(os.stat(parent).st_mode & 0o001 for parent in Path(python).parents)
    return everybody and subprocess.run([python, "-S", "-c", test], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("names", [("seccomp", "landlock"), ("seccomp", "landlock", "user")])
def test_the_probe_closes_a_level_that_leaks(names: tuple[str, ...]) -> None:
    locks = dataclasses.replace(without(*names), user=True)
    reason, findings = try_level(Profile("B", locks))
    assert reason is not None
    assert {"fork", "open a socket", "read a file of the host", "read /etc/passwd"} <= set(findings)
    assert all(finding in reason for finding in findings)


@pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock to be taken away")
def test_without_landlock_the_filter_denies_every_path(runner: Runner, bait: Bait) -> None:
    """As on an old kernel: level B holds, and programs may import what is loaded already, nothing else."""
    locks = without("landlock")
    assert try_level(Profile("B", locks)) == (None, [])
    program = bait.put_into("import collections, math\nprint(math.pi)\nopen(PLACE + '/canary').read()\nprint('GOT')")
    outcome = runner.run(program, locks, level="B")
    assert outcome.output.startswith(b"3.14")
    assert b"GOT" not in outcome.output


@pytest.mark.parametrize("signal", ["SIGKILL", "SIGSTOP", "SIGTERM"])
def test_at_level_b_a_job_cannot_signal_its_zygote(runner: Runner, signal: str) -> None:
    """It is a process of the same user there. Without the filter, SIGKILL ends it."""
    program = f"import os, signal\nos.kill(os.getppid(), signal.{signal})"
    assert b"PermissionError" in runner.run(program, level="B").status
    if signal == "SIGKILL":
        with pytest.raises(SandboxError):
            runner.run(program, without("seccomp", "landlock"), level="B")


def test_a_job_cannot_kill_itself_as_the_machine_would(runner: Runner) -> None:
    """Else it could make itself ungraded."""
    program = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    assert b"PermissionError" in runner.run(program, level="B").status
    with pytest.raises(SandboxError, match="memory"):
        runner.run(program, without("seccomp"), level="B")


def test_level_b_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dataclasses.replace(probe(), level="B")
    monkeypatch.setattr(isolation, "probe", lambda: found)
    jobs = [
        ("def add(a, b): return a + b", ADD),
        ("def add(a, b): return 0", ADD),
        ("import os\nos.fork()\ndef add(a, b): return a + b", ADD),
        ("def add(a, b):\n    while True: pass", ADD),
        ("print(input())", CodeTests(inputs=("x",), outputs=("x",))),
    ]
    with CodeVerifier(limits=Limits(cpu_seconds=1.0)) as verifier:
        assert verifier.isolation.level == "B"
        verdicts = [judged.verdict for judged in verifier.judge(jobs)]
    assert verdicts == ["passed", "wrong_answer", "runtime_error", "timeout", "passed"]


def test_without_any_level_code_is_refused_and_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Isolation("C", "level A: no bwrap; level B: no seccomp", 0, "x")
    monkeypatch.setattr(isolation, "probe", lambda: found)
    with CodeVerifier() as verifier, pytest.raises(SandboxUnavailable, match=r"no bwrap.*apt-get install bubblewrap"):
        verifier.judge([("def add(a, b): return a + b", ADD)])


def test_without_bubblewrap_the_level_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert try_level(Profile("A")) == ("bubblewrap (bwrap) is not installed", [])


def test_no_isolation_is_possible_but_loud() -> None:
    with CodeVerifier(unsafe_no_isolation=True) as verifier:
        with pytest.warns(UserWarning, match="WITHOUT ISOLATION"):
            judgements = verifier.judge([("def add(a, b): return a + b", ADD), ("def add(a, b): return 0", ADD)])
        assert verifier.isolation.level == "none"
    assert [judgement.verdict for judgement in judgements] == ["passed", "wrong_answer"]


def test_isolation_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with CodeVerifier() as verifier:
            assert verifier.isolation.level in ("A", "B")


def test_another_processor_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    with pytest.raises(seccomp.UnsupportedMachineError, match="riscv64"):
        seccomp.compile_filter()


def test_there_is_a_filter_for_each_processor_with_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = {}
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(seccomp.platform, "machine", lambda machine=machine: machine)
        compiled[machine] = seccomp.compile_filter()
    assert compiled["x86_64"] != compiled["aarch64"]
    assert ALL.seccomp


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="memory_bytes must be positive"):
        Limits(memory_bytes=0)
