"""The filter as a program, run here instead of in the kernel, for both processors."""

import struct

import pytest

from srpo_core.sandbox.inside import seccomp

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x50001, 0x50026
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def run(compiled: bytes, audit: int, number: int, *arguments: int) -> int:
    """What classic BPF makes of one call."""
    steps = list(struct.iter_unpack("HBBI", compiled))
    data = struct.pack("IIQ6Q", number, audit, 0, *arguments, *(0,) * (6 - len(arguments)))
    place = loaded = 0
    for _ in range(len(steps)):
        code, if_so, if_not, value = steps[place]
        if code == 0x06:
            return int(value)
        if code == 0x20:
            loaded = struct.unpack_from("I", data, value)[0]
        elif code == 0x05:
            place += value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            place += if_so if holds else if_not
        place += 1
    raise AssertionError("it does not end")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: request.param)
    return str(request.param)


def table(machine: str) -> dict[int, str]:
    column = MACHINES[machine][1]
    listed = [entry.split() for entry in seccomp._TABLE.split(",")]
    return {int(row[1 + column]): row[0] for row in listed if row[1 + column] != "-"}


def test_exactly_the_listed_calls_are_allowed(machine: str) -> None:
    """The calls whose arguments decide are left out here: with all arguments 0 some are allowed."""
    audit, column = MACHINES[machine]
    compiled, listed = seccomp.compile_filter(), table(machine)
    checked = {numbers[column] for numbers in seccomp._CHECKED.values()}
    for number in set(range(600)) - checked:
        assert run(compiled, audit, number) == (ALLOW if number in listed else EPERM), number


def test_what_is_denied_by_name_is_not_allowed(machine: str) -> None:
    audit, _ = MACHINES[machine]
    compiled = seccomp.compile_filter(seccomp.PATH_CALLS)
    for number, name in table(machine).items():
        assert run(compiled, audit, number) == (EPERM if name in seccomp.PATH_CALLS else ALLOW)


def test_arguments_decide_where_they_matter(machine: str) -> None:
    audit, column = MACHINES[machine]
    compiled = seccomp.compile_filter()
    call = {name: numbers[column] for name, numbers in seccomp._CHECKED.items()}
    pid = seccomp._OWN_PID
    cases = [
        ("clone", (0x10000 | 17,), ALLOW),
        ("clone", (17,), EPERM),
        ("clone3", (), ENOSYS),
        ("kill", (pid, 15), ALLOW),
        ("kill", (pid, 9), EPERM),
        ("kill", (pid, 19), EPERM),
        ("kill", (1, 0), EPERM),
        ("kill", (2**32 - 1, 15), EPERM),
        ("tgkill", (pid, 77, 6), ALLOW),
        ("tgkill", (pid, 77, 9), EPERM),
        ("tgkill", (1, 1, 6), EPERM),
        ("tkill", (pid, 6), ALLOW),
        ("tkill", (pid, 9), EPERM),
        ("fcntl", (0, 3), ALLOW),
        ("fcntl", (0, 8), EPERM),
        ("fcntl", (0, 10), EPERM),
        ("ioctl", (0, 0x5401), ALLOW),
        ("ioctl", (0, 0x5412), EPERM),
        ("prlimit64", (0, 7, 0), ALLOW),
        ("prlimit64", (0, 7, 1 << 32), EPERM),
        ("prlimit64", (0, 7, 4096), EPERM),
        ("prlimit64", (0, 3, 4096), ALLOW),
        ("prlimit64", (1, 7, 0), EPERM),
        ("setrlimit", (3,), ALLOW),
        ("setrlimit", (0,), EPERM),
    ]
    for name, arguments, answer in cases:
        assert run(compiled, audit, call[name], *arguments) == answer, (name, arguments)


def test_another_table_of_calls_kills(machine: str) -> None:
    audit, _ = MACHINES[machine]
    compiled = seccomp.compile_filter()
    assert run(compiled, audit ^ 1, 0) == KILL
    assert run(compiled, audit, 0x40000000) == KILL
    assert run(compiled, audit, 0x40000000 + 39) == KILL
