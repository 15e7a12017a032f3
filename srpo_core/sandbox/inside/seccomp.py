"""The system calls a sandboxed process may make: an allow-list, as a classic BPF program (seccomp(2), filter mode).

What is not listed is answered EPERM, so a program sees a PermissionError and may go on; clone3 is answered ENOSYS,
so that the C library falls back to clone, whose flags a filter can read.
"""

import ctypes
import errno
import platform
import struct

from srpo_core.sandbox.inside.libc import prctl

_TABLE = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, close 3 57, close_range 436 436,
fstat 5 80, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291, lseek 8 62, mmap 9 222, mprotect 10 226,
munmap 11 215, mremap 25 216, madvise 28 233, brk 12 214, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132,
pause 34 -, access 21 -, faccessat 269 48, faccessat2 439 439, pipe 22 -, pipe2 293 59, select 23 -, pselect6 270 72,
poll 7 -, ppoll 271 73, epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -,
epoll_pwait 281 22, eventfd2 290 19, sched_yield 24 124, sched_getaffinity 204 123, getcpu 309 168, dup 32 23,
dup2 33 -, dup3 292 24, nanosleep 35 101, clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114,
gettimeofday 96 169, time 201 -, getitimer 36 102, setitimer 38 103, alarm 37 -, getpid 39 172, getppid 110 173,
gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getgroups 115 158,
getresuid 118 148, getresgid 120 150, getpgid 121 155, getpgrp 111 -, getsid 124 156, uname 63 160, ftruncate 77 46,
getcwd 79 17, chdir 80 49, fchdir 81 50, getdents64 217 61, open 2 -, openat 257 56, readlink 89 -, readlinkat 267 78,
mkdir 83 -, mkdirat 258 34, unlink 87 -, unlinkat 263 35, rmdir 84 -, rename 82 -, renameat 264 38,
renameat2 316 276, futex 202 98, set_robust_list 273 99, rseq 334 293, exit 60 93, exit_group 231 94,
getrandom 318 278, sysinfo 99 179, getrusage 98 165, times 100 153, getrlimit 97 163, restart_syscall 219 128,
sendfile 40 71, copy_file_range 326 285, flock 73 32, fsync 74 82, fdatasync 75 83, umask 95 166
"""
_CHECKED = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
    "setrlimit": (160, 164),
}
_PATHS = "open openat readlink readlinkat mkdir mkdirat unlink unlinkat rmdir rename renameat renameat2 chdir fchdir"
PATH_CALLS = frozenset(_PATHS.split())
"""Calls that name a file or change the tree; denied where nothing else guards the file system."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_X32 = 0x40000000
_CLONE_THREAD = 0x10000
_SIGKILL, _SIGSTOP = 9, 19
_RLIMIT_STACK = 3
# F_SETOWN and F_SETSIG would aim signals at other processes of the same user.
# These: DUPFD GETFD SETFD GETFL SETFL GETLK SETLK SETLKW DUPFD_CLOEXEC GETPIPE_SZ.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN, _GO = 0x20, 0x15, 0x35, 0x45, 0x06, 0x05
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_RETURNS = {"ALLOW": _ALLOW, "DENY": _EPERM, "KILL": _KILL}
_NUMBER, _ARCHITECTURE = 0, 4
_SECCOMP_MODE_FILTER, _PR_SET_SECCOMP = 2, 22

_OWN_PID = 0x7E57C0DE  # stands for the pid of the process that installs the filter; larger than any pid

Step = tuple[int, int, int, int]
Program = list[Step]
Filter = bytes


class UnsupportedMachineError(RuntimeError):
    """There is no table of system calls for this processor."""


def compile_filter(deny: frozenset[str] = frozenset()) -> Filter:
    """The filter without the names of `deny`. Raises UnsupportedMachineError on other processors than two.

    The numbers are searched by halves, not one by one: at each installation the kernel tries all of them.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        raise UnsupportedMachineError(f"no system call table for {machine}; there is one for x86_64 and aarch64")
    column, audit = _ARCHITECTURES[machine]
    answers = {numbers[column]: name for name, numbers in _CHECKED.items()}
    for entry in _TABLE.split(","):
        name, *numbers = entry.split()
        if name not in deny and numbers[column] != "-":
            answers[int(numbers[column])] = "ALLOW"
    program: Program = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, audit), (_RETURN, 0, 0, _KILL)]
    program.append((_LOAD, 0, 0, _NUMBER))
    bodies = _bodies()
    starts: dict[str, int] = {}
    tree = _search(_spans(answers), starts)
    rest: Program = []
    for name, body in bodies.items():
        starts[name] = len(tree) + len(rest)
        rest += [*body, (_RETURN, 0, 0, _EPERM)]
    tree = _search(_spans(answers), starts)
    return b"".join(struct.pack("HBBI", *step) for step in [*program, *tree, *rest])


def install(compiled: Filter, pid: int) -> None:
    """Locks the calling process, for good; it may signal itself (`pid`) but neither kill nor stop itself.

    Without SIGKILL from within, a SIGKILL that the supervisor did not send is known to be the machine's.
    Raises OSError when the kernel refuses.
    """
    code = ctypes.create_string_buffer(
        compiled.replace(struct.pack("I", _OWN_PID), struct.pack("I", pid)), len(compiled)
    )
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(compiled) // 8, ctypes.addressof(code)))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def _spans(answers: dict[int, str]) -> list[tuple[int, str]]:
    """Runs of numbers with the same answer: where each begins, and the answer; what is not listed is denied."""
    spans = [(0, "DENY")]
    for number in range(max(answers) + 2):
        answer = answers.get(number, "DENY")
        if answer != spans[-1][1]:
            spans.append((number, answer))
    return [*spans, (_X32, "KILL")]


def _search(spans: list[tuple[int, str]], starts: dict[str, int], place: int = 0) -> Program:
    """A binary search for the loaded number, `place` steps after its own beginning; `starts` says where checks are."""
    if len(spans) == 1:
        answer = spans[0][1]
        if answer in _RETURNS:
            return [(_RETURN, 0, 0, _RETURNS[answer])]
        return [(_GO, 0, 0, starts.get(answer, place + 1) - place - 1)]
    half = len(spans) // 2
    lower = _search(spans[:half], starts, place + 1)
    upper = _search(spans[half:], starts, place + 1 + len(lower))
    return [(_AT_LEAST, len(lower), 0, spans[half][0]), *lower, *upper]


def _bodies() -> dict[str, Program]:
    """For each call whose arguments are looked at: the steps that allow it; what comes through them is denied."""
    allow: Step = (_RETURN, 0, 0, _ALLOW)
    bodies: dict[str, Program] = {
        "clone3": [(_RETURN, 0, 0, _ENOSYS)],
        "clone": [_argument(0), (_ANY_BIT, 0, 1, _CLONE_THREAD), allow],
        "prlimit64": _own_limits(),
    }
    for name, place, values in (("fcntl", 1, _FCNTL), ("ioctl", 1, _IOCTL), ("setrlimit", 0, (_RLIMIT_STACK,))):
        bodies[name] = [_argument(place), *(step for value in values for step in ((_EQUAL, 0, 1, value), allow))]
    for name, place in (("kill", 1), ("tgkill", 2), ("tkill", 1)):
        mortal: Program = [_argument(place), (_EQUAL, 4, 0, _SIGKILL), (_EQUAL, 3, 0, _SIGSTOP)]
        bodies[name] = [*mortal, _argument(0), (_EQUAL, 0, 1, _OWN_PID), allow]
    return bodies


def _argument(place: int) -> Step:
    """Loads the lower half of an argument."""
    return (_LOAD, 0, 0, 16 + 8 * place)


def _own_limits() -> Program:
    """Reading one's own limits, and setting the stack's, which memory bounds anyway."""
    low, high = _argument(2), (_LOAD, 0, 0, 36)
    reading: Program = [low, (_EQUAL, 0, 3, 0), high, (_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _ALLOW)]
    stack: Program = [_argument(1), (_EQUAL, 0, 1, _RLIMIT_STACK), (_RETURN, 0, 0, _ALLOW)]
    return [_argument(0), (_EQUAL, 0, len(reading) + len(stack), 0), *reading, *stack]
