"""Programs that try to get out. Each is stopped with all locks on, and succeeds when the named ones are taken off.

Where a lock is off the program is harmless: it signals with signal 0, removes what it made, and runs as an unused user.
"""

import pytest
from sandbox_runs import ALL, NEEDS_LEVEL_A, NO_ROOT, OPEN, SPACES, Bait, Runner, bait, runner, without

from srpo_core.sandbox import Limits
from srpo_core.sandbox.profile import Locks

__all__ = ["bait", "runner"]

CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
"""
NO_SECCOMP = without("seccomp", "landlock")
NO_NETWORK = without("seccomp", "landlock", "net")
FULL_VIEW = Locks(False, frozenset(), False, False, False, False, False)

# What each does, the locks that are taken off to see it succeed, and the program: it prints GOT when it succeeded.
ATTACKS: dict[str, tuple[Locks, str]] = {
    # other processes
    "fork": (NO_SECCOMP, "import os\nif os.fork() == 0:\n os._exit(0)\nos.wait()\nprint('GOT')"),
    "fork by vfork of subprocess": (
        NO_SECCOMP,
        "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', ''], check=True)\nprint('GOT')",
    ),
    "exec": (
        NO_SECCOMP,
        "import os, sys\nos.execv(sys.executable, ['python', '-I', '-S', '-c', 'print(\"GOT\")'])",
    ),
    "signal the zygote": (NO_SECCOMP, "import os\nos.kill(os.getppid(), 0)\nprint('GOT')"),
    "signal everybody": (OPEN, "import os\nos.kill(-1, 0)\nprint('GOT')"),
    "signal the host's process": (FULL_VIEW, "import os\nos.kill(PID, 0)\nprint('GOT')"),
    "aim asynchronous signals at others": (
        NO_SECCOMP,
        "import fcntl, os\nr, w = os.pipe()\nfcntl.fcntl(r, 8, os.getppid())\nprint('GOT')",
    ),
    "hold a handle on the zygote": (NO_SECCOMP, "import os\nos.pidfd_open(os.getppid())\nprint('GOT')"),
    "be traced": (NO_SECCOMP, CALL + "call(101, 0, 0, 0, 0)\nprint('GOT')"),
    "read memory by process number": (
        NO_SECCOMP,
        CALL + "call(310, os.getpid(), 0, 0, 0, 0, 0)\nprint('GOT')",
    ),
    "write memory by process number": (
        NO_SECCOMP,
        CALL + "call(311, os.getpid(), 0, 0, 0, 0, 0)\nprint('GOT')",
    ),
    "see the host's processes": (
        without("root", "landlock", "pid"),
        "import os\nos.listdir(f'/proc/{PID}')\nprint('GOT')",
    ),
    "outlive the zygote": (NO_SECCOMP, CALL + "call(157, 1, 0, 0, 0, 0)\nprint('GOT')"),
    "leave the session": (NO_SECCOMP, "import os\nos.setsid()\nprint('GOT')"),
    "take another user's place": (NO_SECCOMP, "import os\nos.setuid(os.getuid())\nprint('GOT')"),
    # files
    "read a file of the host": (NO_ROOT, "open(PLACE + '/canary').read()\nprint('GOT')"),
    "read a file that only root may": (
        without("user", "root", "landlock"),
        "open(PLACE + '/private').read()\nprint('GOT')",
    ),
    "read /etc/passwd": (NO_ROOT, "open('/etc/passwd').read()\nprint('GOT')"),
    "list the host's files": (NO_ROOT, "import os\nos.listdir(PLACE)\nprint('GOT')"),
    "write a file of the host": (
        NO_ROOT,
        "import os\nopen(PLACE + '/new', 'w').close()\nos.unlink(PLACE + '/new')\nprint('GOT')",
    ),
    "write to /dev/shm": (
        NO_ROOT,
        "import os\nopen('/dev/shm/new', 'w').close()\nos.unlink('/dev/shm/new')\nprint('GOT')",
    ),
    "read the first process's environment": (
        without("root", "landlock", "environment"),
        "assert b'SECRET' in open('/proc/1/environ', 'rb').read()\nprint('GOT')",
    ),
    "read the caller's environment": (
        without("root", "landlock", "environment"),
        "import os\nprint(os.environ['SECRET_OF_THE_CALLER'], 'GOT')",
    ),
    "link symbolically": (
        NO_SECCOMP,
        "import os\nos.symlink('/', '/scratch/l')\nos.unlink('/scratch/l')\nprint('GOT')",
    ),
    "link": (
        NO_SECCOMP,
        "import os\nopen('a', 'w').close()\nos.link('a', 'b')\nos.unlink('a')\nos.unlink('b')\nprint('GOT')",
    ),
    "change modes": (NO_SECCOMP, "import os\nos.chmod('/scratch', 0o700)\nprint('GOT')"),
    "watch files": (NO_SECCOMP, CALL + "call(294, 0)\nprint('GOT')"),
    "mount": (OPEN, CALL + "call(272, 0x10020000)\ncall(165, b'none', b'/tmp', b'tmpfs', 0, 0)\nprint('GOT')"),
    "change the root": (OPEN, CALL + "call(272, 0x10000000)\nos.chroot(PLACE)\nprint('GOT')"),
    # the network
    "make an inet socket": (NO_SECCOMP, "import socket\nsocket.socket()\nprint('GOT')"),
    "make a Unix socket": (NO_SECCOMP, "import socket\nsocket.socketpair()\nprint('GOT')"),
    "connect to the host": (
        NO_NETWORK,
        "import socket\nsocket.create_connection(('127.0.0.1', PORT), 5)\nprint('GOT')",
    ),
    "connect to a Unix socket of the host": (
        without("root", "landlock", "seccomp"),
        "import socket\nsocket.socket(socket.AF_UNIX).connect(PLACE + '/socket')\nprint('GOT')",
    ),
    "connect to an abstract socket of the host": (
        NO_NETWORK,
        "import socket\nsocket.socket(socket.AF_UNIX).connect(chr(0) + PLACE)\nprint('GOT')",
    ),
    # the kernel
    "make a user namespace": (OPEN, CALL + "call(272, 0x10000000)\nprint('GOT')"),
    "System V shared memory": (NO_SECCOMP, CALL + "call(31, call(29, 0, 4096, 0o1600), 0, 0)\nprint('GOT')"),
    "System V semaphores": (NO_SECCOMP, CALL + "call(66, call(64, 0, 1, 0o1600), 0, 0, 0)\nprint('GOT')"),
    "System V queues": (NO_SECCOMP, CALL + "call(71, call(68, 0, 0o1600), 0, 0)\nprint('GOT')"),
    "memfd_create": (NO_SECCOMP, "import os\nos.memfd_create('x')\nprint('GOT')"),
    "add a key": (NO_SECCOMP, CALL + "call(250, 0, -3, 1)\nprint('GOT')"),
    "change the personality": (NO_SECCOMP, CALL + "call(135, 0xffffffff)\nprint('GOT')"),
    "change its priority": (NO_SECCOMP, "import os\nos.nice(1)\nprint('GOT')"),
    "choose its processor": (NO_SECCOMP, "import os\nos.sched_setaffinity(0, os.sched_getaffinity(0))\nprint('GOT')"),
    "raise its own limits": (
        NO_SECCOMP,
        "import resource as r\nr.setrlimit(r.RLIMIT_CPU, (r.getrlimit(r.RLIMIT_CPU)[1],) * 2)\nprint('GOT')",
    ),
    "install a filter of its own": (NO_SECCOMP, CALL + "call(317, 2, 0, b'\\0\\0\\xff\\x7f')\nprint('GOT')"),
}

# These reach the kernel with arguments that it refuses: EPERM is the filter's answer, any other the kernel's own.
REACHED = """
try:
    call({number}, {arguments})
except OSError as error:
    assert error.errno not in (1, 38), error
print('GOT')
"""
KERNEL_CALLS = {"perf_event_open": (298, "0, 0, -1, -1, 0"), "timer_create": (222, "99, 0, 0")}
KERNEL_CALLS |= {"process_madvise": (440, "-1, 0, 0, 0, 0"), "io_cancel": (210, "0, 0, 0"), "mq_open": (240, "0, 0, 0")}
KERNEL_CALLS |= {
    "splice": (275, "-1, 0, -1, 0, 1, 0"),
    "kcmp": (312, "1, 1, 99, 0, 0"),
    "mbind": (237, "1, 1, 9, 0, 0, 0"),
}
for name, (number, arguments) in KERNEL_CALLS.items():
    ATTACKS[f"reach {name}"] = (NO_SECCOMP, CALL + REACHED.format(number=number, arguments=arguments))

SMALL = Limits(wall_seconds=60.0, cpu_seconds=1.0, memory_bytes=256 * 2**20, output_bytes=2**20, processes=4)
NO_LIMITS = without("rlimits", "root", "landlock")
EXHAUSTING: dict[str, str] = {
    "take memory at once": "x = bytearray(400 * 2**20)\nprint('GOT')",
    "take memory in pieces": "x = [bytearray(2**20) for _ in range(300)]\nprint('GOT')",
    "take memory by mapping": "import mmap\nx = mmap.mmap(-1, 400 * 2**20)\nprint('GOT')",
    "take memory and hide it": (
        "try:\n x = bytearray(400 * 2**20)\nexcept MemoryError:\n x = None\nprint('GOT' if x else 'hidden')"
    ),
    "start many threads": (
        "import threading\nstop = threading.Event()\nt = [threading.Thread(target=stop.wait) for _ in range(12)]\n"
        "try:\n [x.start() for x in t]\n print('GOT')\nfinally:\n stop.set()"
    ),
    "open many descriptors": "import os\np = [os.pipe() for _ in range(50)]\nprint('GOT')",
    "use the processor for long": "import time\nwhile time.process_time() < 2.5:\n pass\nprint('GOT')",
    "use the processor past the first warning": (
        "import signal, time\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"
        "while time.process_time() < 2.5:\n pass\nprint('GOT')"
    ),
    "use the processor in threads": (
        "import threading, time\nt = [threading.Thread(target=lambda: sum(range(10**7))) for _ in range(2)]\n"
        "[x.start() for x in t]\n[x.join() for x in t]\n"
        "while time.process_time() < 2.5:\n pass\nprint('GOT')"
    ),
    "write a big file": (
        "import os\np = PLACE if os.path.isdir(PLACE) else '/scratch'\nf = open(p + '/big', 'wb')\n"
        "try:\n f.write(bytes(2 * 2**20))\n f.flush()\n print('GOT')\nfinally:\n os.unlink(p + '/big')"
    ),
    "fill the work directory": (
        "import os\np = PLACE if os.path.isdir(PLACE) else '/scratch'\n"
        "try:\n for n in range(20):\n  open(f'{p}/f{n}', 'wb').write(bytes(2**20 - 1))\n print('GOT')\n"
        "finally:\n [os.unlink(f'{p}/f{n}') for n in range(20) if os.path.exists(f'{p}/f{n}')]"
    ),
}


def got(output: bytes) -> bool:
    return b"GOT" in output


@NEEDS_LEVEL_A
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails_and_succeeds_only_without_its_lock(
    name: str, runner: Runner, bait: Bait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "SECRET")
    locks, program = ATTACKS[name]
    program = bait.put_into(program)
    assert not got(runner.run(program).output)
    bare = runner.run(program, locks)
    assert got(bare.output), f"not even without its lock: {bare}"


@NEEDS_LEVEL_A
@pytest.mark.parametrize("name", EXHAUSTING)
def test_exhaustion_is_stopped_and_only_by_its_limit(name: str, runner: Runner, bait: Bait) -> None:
    program = bait.put_into(EXHAUSTING[name])
    assert not got(runner.run(program, limits=SMALL).output)
    assert got(runner.run(program, NO_LIMITS, limits=SMALL).output)


@NEEDS_LEVEL_A
def test_what_a_job_leaves_behind_dies_with_it_and_only_by_the_process_namespace(runner: Runner) -> None:
    """A child that was forked (the filter is off) ignores all signals it may; the next job looks for it."""
    leave = "import os, time\npid = os.fork()\nif pid == 0:\n time.sleep(600)\nprint(pid)"
    look = "import os\ntry:\n os.kill({pid}, 0)\n print('GOT')\nexcept ProcessLookupError:\n pass"
    locked = without("seccomp", "landlock")
    pid = int(runner.run(leave, locked).output)
    assert not got(runner.run(look.format(pid=pid), locked).output)
    bare = without("seccomp", "landlock", "pid")
    pid = int(runner.run(leave, bare).output)
    assert got(runner.run(look.format(pid=pid), bare).output)
    runner.run(f"import os\nos.kill({pid}, 9)", bare)


@NEEDS_LEVEL_A
def test_the_tree_is_read_only_and_namespaces_are_used_up_without_landlock_and_filter(runner: Runner) -> None:
    """The locks below the first ones: each is enough by itself."""
    write = "import os\nfor place in ('/', '/dev', '/usr', os.path.dirname(os.__file__)):\n try:\n"
    write += "  open(place + '/new', 'w')\n  print('GOT', place)\n except OSError:\n  pass"
    assert runner.run(write, NO_SECCOMP).output == b""
    unshare = CALL + "call(272, 0x10000000)\nprint('GOT')"
    assert not got(runner.run(unshare, NO_SECCOMP).output)


@NEEDS_LEVEL_A
def test_a_fork_bomb_dies_with_its_job(runner: Runner) -> None:
    """With the filter off, as it would not begin with it on; the limit on processes and the namespace hold it."""
    bomb = "import os\nwhile True:\n try:\n  os.fork()\n except OSError:\n  pass"
    locks = without("seccomp", "landlock")
    limits = Limits(wall_seconds=1.0, cpu_seconds=5.0, processes=6)
    assert runner.run(bomb, locks, limits=limits).cause in ("timeout", "signalled", "exited")
    assert got(runner.run("print('GOT')", locks).output)


@NEEDS_LEVEL_A
def test_empty_files_by_the_thousand_are_stopped(runner: Runner) -> None:
    """They take no space, so no limit of size sees them. The watch cannot be switched off; the tmpfs would take all."""
    endless = "n = 0\nwhile True:\n open(f'/scratch/{n}', 'w').close()\n n += 1"
    assert runner.run(endless).cause == "memory"


@NEEDS_LEVEL_A
def test_no_job_finds_what_another_one_wrote(runner: Runner) -> None:
    runner.run("open('/scratch/note', 'w').write('the answer')")
    assert not got(runner.run("import os\nif os.listdir('/scratch'):\n print('GOT')").output)


@NEEDS_LEVEL_A
def test_calls_of_another_system_call_table_kill(runner: Runner) -> None:
    """x32 has numbers of its own on the same processor, that a filter by number would not see."""
    program = CALL + "try:\n call(0x40000000 + 39)\nexcept OSError:\n pass\nprint('GOT')"
    assert runner.run(program).cause == "signalled"
    assert got(runner.run(program, NO_SECCOMP).output)


def test_attacks_are_at_least_forty() -> None:
    assert len(ATTACKS) + len(EXHAUSTING) >= 40
    assert ALL.namespaces == SPACES
