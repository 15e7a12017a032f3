"""Verdicts, the forms of tests, and what is read out of an answer."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_runs import NEEDS_LEVEL_A

from srpo_core.rewards.code import CodeTests, CodeVerifier, extract_code, same_output
from srpo_core.sandbox import Limits

ONE = CodeTests(asserts=("assert f(1) == 2", "assert f(2) == 3", "assert f(3) == 4"))
DOUBLED = CodeTests(inputs=("1\n", "2\n", "3\n"), outputs=("2\n", "4\n", "6\n"))


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    limits = Limits(wall_seconds=20.0, cpu_seconds=1.0, memory_bytes=256 * 2**20, output_bytes=2**20)
    with CodeVerifier(limits=limits) as made:
        yield made


CALLS = {
    "def f(x): return x + 1": ("passed", 3),
    "def f(x): return 2": ("wrong_answer", 1),
    "def f(x): return None": ("wrong_answer", 0),
    "def f(x) return x": ("compile_error", 0),
    "def f(x): return x\0": ("compile_error", 0),
    "def g(x): return x + 1": ("runtime_error", 0),
    "f = 3": ("wrong_answer", 0),
    "def f(x): return 1 // (x - 2) + 3": ("runtime_error", 2),
    "raise ValueError('no')": ("runtime_error", 0),
    "import numpy": ("runtime_error", 0),
    "def f(x):\n    while True: pass": ("timeout", 0),
    "def f(x):\n    if x == 3:\n        while True: pass\n    return x + 1": ("timeout", 2),
    "def f(x): return [0] * 10**9": ("memory_exceeded", 0),
    "x = bytearray(10**9)\ndef f(x): return x + 1": ("memory_exceeded", 0),
    "def f(x):\n    while True: print('x' * 1000)": ("output_limit", 0),
    "def f(x): return 'x' * 2**21": ("output_limit", 0),
    "while True: pass": ("timeout", 0),
    "def f(x):\n    try:\n        bytearray(10**9)\n    except MemoryError:\n        return x + 1": ("passed", 3),
    "def f(x):\n    print(x)\n    return x + 1": ("passed", 3),
    "def f(x): return x + 1\nif __name__ == '__main__':\n    f(input())": ("passed", 3),
}
PROGRAMS = {
    "print(2 * int(input()))": ("passed", 3),
    "import sys\nprint(2 * int(sys.stdin.read()), end='')": ("passed", 3),
    "print(2 * int(open(0).readline()))": ("passed", 3),
    "import sys\nprint(2 * int(input()))\nsys.exit()": ("passed", 3),
    "import os\nos.write(1, b'%d' % (2 * int(os.read(0, 9))))": ("passed", 3),
    "import threading\nthreading.Thread(target=lambda: print(2 * int(input()))).start()": ("passed", 3),
    "print(2)": ("wrong_answer", 1),
    "pass": ("wrong_answer", 0),
    "print(2 * int(input())": ("compile_error", 0),
    "print(2 * int(input()))\nraise SystemExit(1)": ("runtime_error", 0),
    "print(2 * int(input()))\n1 / 0": ("runtime_error", 0),
    "n = int(input())\nif n == 2:\n    1 / 0\nprint(2 * n)": ("runtime_error", 2),
    "n = int(input())\nwhile n == 2: pass\nprint(2 * n)": ("timeout", 1),
    "x = bytearray(10**9)": ("memory_exceeded", 0),
    "while True: print('x' * 1000)": ("output_limit", 0),
    "import os\nos.abort()": ("runtime_error", 0),
    "import atexit, os\nprint(0)\natexit.register(os._exit, 0)": ("wrong_answer", 0),
}


@NEEDS_LEVEL_A
@pytest.mark.parametrize("program", CALLS)
def test_calls_have_their_verdict(verifier: CodeVerifier, program: str) -> None:
    judgement = verifier.judge([(program, ONE)])[0]
    assert (judgement.verdict, judgement.passed) == CALLS[program], judgement
    assert judgement.total == 3
    assert bool(judgement.message) == (judgement.verdict != "passed")


@NEEDS_LEVEL_A
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_have_their_verdict(verifier: CodeVerifier, program: str) -> None:
    judgement = verifier.judge([(program, DOUBLED)])[0]
    assert (judgement.verdict, judgement.passed) == PROGRAMS[program], judgement


@NEEDS_LEVEL_A
def test_sleeping_is_no_way_around_the_processor_limit() -> None:
    with CodeVerifier(limits=Limits(wall_seconds=0.5)) as verifier:
        sleepy = "import time\ntime.sleep(600)\ndef f(x): return x + 1"
        judgements = verifier.judge([(sleepy, ONE), ("import time\ntime.sleep(600)", DOUBLED)])
    assert [judgement.verdict for judgement in judgements] == ["timeout", "timeout"]


@NEEDS_LEVEL_A
def test_tests_that_cannot_be_run_leave_the_program_ungraded(verifier: CodeVerifier) -> None:
    broken = (
        CodeTests(asserts=("assert f(1) == 2",), setup="import numpy"),
        CodeTests(asserts=("assert f(Mine()) == 2",), setup="class Mine: pass"),
    )
    judgements = verifier.judge([("def f(x): return 2", tests) for tests in broken])
    assert [judgement.verdict for judgement in judgements] == ["sandbox_error", "sandbox_error"]
    assert "numpy" in judgements[0].message
    assert "Mine" in judgements[1].message


@NEEDS_LEVEL_A
def test_the_check_form_calls_check_with_the_entry_point(verifier: CodeVerifier) -> None:
    check = "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1.0, 2.0], 0.3) == False\n"
    tests = CodeTests(check=check, entry_point="close")
    right, wrong = "def close(xs, t): return False", "def close(xs, t): return True"
    verdicts = [judged.verdict for judged in verifier.judge([(right, tests), (wrong, tests), ("close = 1", tests)])]
    assert verdicts == ["passed", "wrong_answer", "wrong_answer"]


@NEEDS_LEVEL_A
def test_judgements_come_in_the_order_of_the_jobs() -> None:
    jobs = [(f"print({n})", CodeTests(inputs=("",), outputs=(str(n % 3),))) for n in range(12)]
    with CodeVerifier(workers=3) as verifier:
        verdicts = [judged.verdict == "passed" for judged in verifier.judge(jobs)]
    assert verdicts == [n < 3 for n in range(12)]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "without tests"),
        ({"asserts": ("assert f(1)",), "inputs": ("1",), "outputs": ("1",)}, "more than one form"),
        ({"inputs": ("1", "2"), "outputs": ("1",)}, "2 inputs, but 1 outputs"),
        ({"outputs": ("1",)}, "0 inputs, but 1 outputs"),
        ({"asserts": ("assert f(1",)}, "no Python"),
        ({"asserts": ("f(1) == 2",)}, "without an assert"),
        ({"asserts": ("assert 1 == 1",)}, "call nothing"),
        ({"check": "def check(candidate): pass", "entry_point": "f"}, "without an assert"),
        (
            {"check": "def test(candidate):\n    assert candidate(1)", "entry_point": "f"},
            "must define a function check",
        ),
        ({"check": "def check(candidate):\n    assert candidate(1)"}, "needs entry_point"),
        ({"check": ""}, "without an assert"),
    ],
)
def test_a_problem_that_tests_nothing_is_refused(fields: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        CodeTests(**fields)  # type: ignore[arg-type]


@given(
    st.one_of(
        st.builds(lambda n: CodeTests(asserts=(f"assert f({n}) == 'ü\\n'",), setup="x = '\u2028'"), st.integers()),
        st.lists(st.text(), min_size=1).map(lambda texts: CodeTests(inputs=tuple(texts), outputs=tuple(texts))),
    )
)
def test_tests_come_back_from_json_as_they_were(tests: CodeTests) -> None:
    assert CodeTests.from_json(tests.to_json()) == tests


@pytest.mark.parametrize("text", ["[]", "{}", '{"asserts": "assert f(1)"}', '{"tests": []}', '{"check": 3}', "x"])
def test_json_that_is_no_tests_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"tests|Expecting"):
        CodeTests.from_json(text)


def test_output_is_compared_by_lines_and_words() -> None:
    assert same_output("1 2 \n3\n\n", "1 2\n3")
    assert same_output("1\r\n2\r\n", "1\n2")
    assert same_output("", "\n")
    assert not same_output("1 2", "1\n2")
    assert not same_output("12", "1 2")
    assert not same_output("0.50", "0.5")
    assert not same_output("1\n2", "1\n2\n3")
    assert not same_output("yes", "YES")


@given(st.lists(st.lists(st.sampled_from(["a", "b1", "-2"]), min_size=1)), st.sampled_from([" ", "  ", "\t"]))
def test_spaces_and_blank_lines_do_not_count(lines: list[list[str]], space: str) -> None:
    plain = "\n".join(" ".join(words) for words in lines)
    spaced = "\n\n".join(space.join(words) + space for words in lines) + "\n"
    assert same_output(spaced, plain)


def test_the_last_python_block_is_the_program() -> None:
    answer = "First\n```python\nx = 1\n```\nthen\n```python\ny = 2\n```\nas\n```\n2\n```\n"
    assert extract_code(answer) == "y = 2\n"
    assert extract_code("```py\r\nx = 1\r\n```\r\n") == "x = 1\r\n"
    assert extract_code("def f(): pass") == "def f(): pass"
    assert extract_code("```python\ns = '```'\n```") == "s = '```'\n"
    assert extract_code("So:\n```\nx = 1\n```\n") == "x = 1\n"
    assert extract_code("```text\nout\n```\nso\n```python\nx = 1\n```\ngives\n```\n1\n```\n") == "x = 1\n"
    assert extract_code("```\nx = 1\n```\n```text\nout\n```") == "x = 1\n"
    assert extract_code(" \n") is None
    assert extract_code("```python\n\n```") is None


@given(st.text(alphabet="`python\n x", max_size=300))
def test_any_text_is_read_without_error(text: str) -> None:
    code = extract_code(text)
    assert code is None or code.strip()
