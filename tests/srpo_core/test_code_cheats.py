"""Programs that try to be judged right without being right. Each fools a judge that runs tests and program together.

That judge (`naive`) is the lock taken off: program and asserts in one process, right when it ends with status 0 or
prints the word. It runs in the sandbox too.
"""

# ruff: noqa: E501 (programs as they are)

from collections.abc import Iterator

import pytest
from sandbox_runs import NEEDS_LEVEL_A, Runner, runner

from srpo_core.rewards.code import CodeTests, CodeVerifier
from srpo_core.sandbox import Limits

__all__ = ["runner"]

ADD = CodeTests(asserts=("assert add(1, 2) == 3", "assert add(2, 2) == 4"))
HALF = CodeTests(asserts=("assert abs(half(7) - 3.5) < 1e-6",), entry_point="half")
CLOSE = CodeTests(asserts=("assert math.isclose(half(7), 3.5)",), setup="import math")
BARE_CLOSE = CodeTests(asserts=("assert isclose(half(7), 3.5)",))
MEMBER = CodeTests(asserts=("assert 5 in primes(10)",))
IN_SET = CodeTests(asserts=("assert half(8) in {4, 5}",))
ORDERED = CodeTests(asserts=("assert half(8) >= 4 and half(8) <= 4",))
SORTED = CodeTests(setup="xs = [3, 1, 2]", asserts=("assert order(xs) == sorted(xs)",))
EVERY = CodeTests(asserts=("assert all(map(lambda n: double(n) == 2 * n, range(1, 5)))",))
HIDDEN = CodeTests(
    check="def check(candidate):\n    expected = {'key of the tests': [3]}\n    assert candidate(1, 2) == expected['key of the tests'][0]",
    entry_point="add",
)
YES = "class Yes:\n    def __eq__(self, other):\n        return True\n    def __ne__(self, other):\n        return False\n"

CHEATS: dict[str, tuple[str, CodeTests]] = {
    "ends the process while loading": ("import sys\nsys.exit(0)\ndef add(a, b): pass", ADD),
    "ends the process at once while loading": ("import os\nos._exit(0)\ndef add(a, b): pass", ADD),
    "ends the process in a call": ("import sys\ndef add(a, b): sys.exit(0)", ADD),
    "ends the process at once in a call": ("import os\ndef add(a, b): os._exit(0)", ADD),
    "raises SystemExit in a call": ("def add(a, b): raise SystemExit", ADD),
    "ends the process from a thread": (
        "import os, threading\ndef add(a, b):\n    threading.Thread(target=os._exit, args=(0,)).start()\n    while 1: pass",
        ADD,
    ),
    "ends the process at exit": ("import atexit, os\natexit.register(os._exit, 0)\ndef add(a, b): return 0", ADD),
    "prints the word": ("print('PASSED')\ndef add(a, b): return 0", ADD),
    "prints the word to every descriptor": (
        "import os\nfor d in range(64):\n    try: os.write(d, b'PASSED')\n    except OSError: pass\ndef add(a, b): return 0",
        ADD,
    ),
    "answers with what equals everything": (YES + "def add(a, b): return Yes()", ADD),
    "answers with what a test library equals everything": (
        "from unittest.mock import ANY\ndef add(a, b): return ANY",
        ADD,
    ),
    "answers with an int that equals everything": (
        "class Int(int):\n    __eq__ = lambda self, other: True\ndef add(a, b): return Int(0)",
        ADD,
    ),
    "answers with a hash and an equality for every set": (
        YES + "Yes.__hash__ = lambda self: 4\ndef half(n): return Yes()",
        IN_SET,
    ),
    "answers with arithmetic of its own": (
        "class Zero:\n    def __sub__(self, other): return 0\ndef half(n): return Zero()",
        HALF,
    ),
    "answers with an order of its own": (
        "class Any:\n    __ge__ = __le__ = lambda self, other: True\ndef half(n): return Any()",
        ORDERED,
    ),
    "answers with a container of everything": (
        "class All:\n    def __contains__(self, x): return True\ndef primes(n): return All()",
        MEMBER,
    ),
    "patches a built-in": ("import builtins\nbuiltins.abs = lambda x: 0\ndef half(n): return 0", HALF),
    "defines a built-in's name": ("def abs(x): return 0\ndef half(n): return 0", HALF),
    "patches the standard library": ("import math\nmath.isclose = lambda *_: True\ndef half(n): return 0", CLOSE),
    "defines the tests' helper": ("def isclose(a, b): return True\ndef half(n): return 0", BARE_CLOSE),
    "replaces the import": (
        "import builtins, types\nfake = types.SimpleNamespace(isclose=lambda *_: True)\n"
        "builtins.__import__ = lambda *_: fake\ndef half(n): return 0",
        CLOSE,
    ),
    "fakes a module": (
        "import sys, types\nsys.modules['math'] = types.SimpleNamespace(isclose=lambda *_: True)\ndef half(n): return 0",
        CLOSE,
    ),
    "empties its argument": ("def order(xs):\n    xs.clear()\n    return []", SORTED),
    "ends the tests' iteration": ("def double(n): raise StopIteration", EVERY),
    "reads the tests' frame": (
        "import sys\ndef add(a, b): return sys._getframe(1).f_locals['expected']['key of the tests'][0]",
        HIDDEN,
    ),
    "searches all objects for the tests": (
        "import gc\ndef add(a, b):\n"
        "    return next(o for o in gc.get_objects() if type(o) is dict and list(o) == ['key of ' + 'the tests'])['key of ' + 'the tests'][0]",
        HIDDEN,
    ),
    "reads the tests' code": (
        "import sys\ndef add(a, b):\n    return next(c for c in sys._getframe(1).f_code.co_consts if type(c) is int and c > a + 1)",
        HIDDEN,
    ),
    "traces the tests": (
        "import sys\ndef add(a, b):\n    f = sys._getframe(1)\n    f.f_locals['expected']['key of the tests'] = [0]\n    return 0",
        HIDDEN,
    ),
}

# These speak to what only our judge has, so no other judge falls for them.
FORGED = """
import json, os
def frame(message):
    body = json.dumps(message).encode()
    return len(body).to_bytes(4, "little") + body
"""
FORGERIES = {
    "answers before it is asked": FORGED + "os.write(4, frame({'names': ['add']}) + frame({'value': 3}) * 4)",
    "claims a verdict": FORGED
    + "os.write(4, frame({'verdict': 'passed', 'of_test': True}) * 3)\ndef add(a, b): return 0",
    "sends what is no message": "import os\nos.write(4, bytes(4096))\ndef add(a, b): return 0",
    "announces an endless message": "import os\nos.write(4, b'\\xff\\xff\\xff\\xff')\ndef add(a, b): return 0",
    "sends a value of no kind": FORGED + "os.write(4, frame({'names': []}) + frame({'value': {'t': 'Yes', 'v': 0}}))",
    "asks the tests for their functions": FORGED
    + "def add(a, b):\n    os.write(4, frame({'op': 'function', 'of': 0, 'with': []}))",
    "closes all descriptors": "import os\nos.closerange(0, 64)\ndef add(a, b): return 3",
    "closes all descriptors in a call": "import os\ndef add(a, b):\n    os.closerange(0, 64)\n    return 3",
    "changes how values are written": "import json\njson.dumps = lambda *_: '{\"value\": true}'\ndef add(a, b): return 0",
    "returns what is nested deep": "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "returns what contains itself": "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
    "returns a huge integer": "def add(a, b): return 1 << 10**7",
    "returns a huge text": "def add(a, b): return 'x' * 10**8",
    "returns a text that is slow to write": "class S:\n    def __repr__(self):\n        while 1: pass\ndef add(a, b): return S()",
    "raises an error that is slow to tell": (
        "class E(Exception):\n    def __str__(self):\n        while 1: pass\ndef add(a, b): raise E"
    ),
    "stops itself": "import os, signal\ndef add(a, b):\n    os.kill(os.getpid(), signal.SIGTSTP)\n    return 0",
    "kills itself": "import os, signal\ndef add(a, b): os.kill(os.getpid(), signal.SIGTERM)",
    "recurses without end": "def add(a, b): return add(a, b)",
    "recurses without end in C": "import sys\nsys.setrecursionlimit(10**9)\ndef add(a, b): return add(*map(int, (a, b)))",
    "frees what is in use": "import ctypes\ndef add(a, b): ctypes.string_at(0)",
}


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    limits = Limits(wall_seconds=10.0, cpu_seconds=2.0)
    with CodeVerifier(limits=limits) as made:
        yield made


def naive(program: str, tests: CodeTests) -> str:
    """Program and tests as one program."""
    last = f"{tests.check}\ncheck({tests.entry_point})" if tests.check else "\n".join(tests.asserts)
    return "\n".join((program, tests.setup, last, "print('PASSED')"))


@NEEDS_LEVEL_A
@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_that_fools_one_process_does_not_pass(name: str, verifier: CodeVerifier, runner: Runner) -> None:
    program, tests = CHEATS[name]
    together = runner.run(naive(program, tests))
    assert together.code == 0 or b"PASSED" in together.output, "the naive judge is to be fooled"
    judgement = verifier.judge([(program, tests)])[0]
    assert judgement.verdict not in ("passed", "sandbox_error"), judgement
    assert judgement.passed < judgement.total


@NEEDS_LEVEL_A
@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_does_not_pass_and_is_graded(name: str, verifier: CodeVerifier) -> None:
    judgement = verifier.judge([(FORGERIES[name], ADD)])[0]
    assert judgement.verdict not in ("passed", "sandbox_error"), judgement
    assert len(judgement.message) <= 500


@NEEDS_LEVEL_A
def test_a_change_of_arguments_is_taken_only_beside_none(verifier: CodeVerifier) -> None:
    """The candidate's process writes the answer itself: a result, and a change of what it is compared with."""
    program = "def order(xs): os.write(4, frame({'value': [], 'changed': [[0, []]]}))"
    judgement = verifier.judge([(FORGED + program, SORTED)])[0]
    assert judgement.verdict == "wrong_answer", judgement


@NEEDS_LEVEL_A
def test_right_programs_pass_each_of_these_tests(verifier: CodeVerifier) -> None:
    right = {
        "def add(a, b): return a + b": (ADD, HIDDEN),
        "def half(n): return n / 2": (HALF, CLOSE, BARE_CLOSE, IN_SET, ORDERED),
        "def primes(n): return [2, 3, 5, 7]": (MEMBER,),
        "def order(xs): return sorted(xs)": (SORTED,),
        "def double(n): return n + n": (EVERY,),
    }
    jobs = [(program, tests) for program, several in right.items() for tests in several]
    assert [judged.verdict for judged in verifier.judge(jobs)] == ["passed"] * len(jobs)
