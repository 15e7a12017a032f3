"""What crosses between tests and candidate: plain data exactly, everything else by reference."""

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sandbox_runs import NEEDS_LEVEL_A

from srpo_core.rewards.code import CodeTests, CodeVerifier
from srpo_core.sandbox.inside.plain import decode, encode


def refuse(value: Any) -> Any:
    raise TypeError(f"not plain: {value!r}")


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary(), st.dates(),
    st.datetimes(), st.datetimes(timezones=st.just(UTC)), st.times(), st.timedeltas(), st.fractions(),
    st.decimals(allow_nan=False),
)  # fmt: skip
hashable = st.recursive(scalars, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner)))
values = st.recursive(
    st.one_of(hashable, st.sets(hashable), st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner),
        st.dictionaries(hashable, inner),
        st.lists(inner).map(deque),
        st.dictionaries(hashable, inner).map(OrderedDict),
    ),
    max_leaves=8,
)


@given(values)
def test_plain_data_comes_back_as_it_was(value: Any) -> None:
    back = decode(encode(value, refuse), refuse)
    assert type(back) is type(value)
    assert repr(back) == repr(value) if not _has_set(value) else back == value or "nan" in repr(value)


def _has_set(value: Any) -> bool:
    return "{" in repr(value) or "set(" in repr(value)


@pytest.mark.parametrize(
    "value",
    [
        2**4000, -(2**63), math.inf, -0.0, "\ud800", Counter("aab"), defaultdict(None, {1: [2]}), range(3, 9, 2),
        1 + 2j, datetime(2000, 1, 1, fold=1), time(1, 30, fold=1),
        datetime(2000, 1, 1, tzinfo=timezone(timedelta(hours=2))),
    ],
)  # fmt: skip
def test_the_odd_ones_come_back_too(value: Any) -> None:
    back = decode(encode(value, refuse), refuse)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", [type("Int", (int,), {})(3), type("List", (list,), {})(), object(), len, int, Any,
     datetime(2000, 1, 1, tzinfo=ZoneInfo("Europe/Rome")), time(1, tzinfo=timezone(timedelta(hours=2), "home"))],
)  # fmt: skip
def test_a_subclass_or_another_object_is_not_plain(value: Any) -> None:
    with pytest.raises(TypeError, match="not plain"):
        encode(value, refuse)


@pytest.fixture(scope="module")
def verifier() -> Iterator[CodeVerifier]:
    with CodeVerifier() as made:
        yield made


CLASS = """
class Pair:
    def __init__(self, a, b): self.a, self.b = a, b
    def sum(self, times=1): return (self.a + self.b) * times
    def __len__(self): return 2
    def __iter__(self): return iter((self.a, self.b))
    def __getitem__(self, n): return (self.a, self.b)[n]
    def __repr__(self): return f"Pair({self.a}, {self.b})"
    def __eq__(self, other): return True
def make(a, b): return Pair(a, b)
def total(pair): return pair.a + pair.b
LIMIT = 7
"""
WORKS: dict[str, tuple[str, str]] = {
    "a class's instance": (CLASS, "p = Pair(1, 2)\nassert p.a == 1 and p.sum() == 3 and p.sum(times=2) == 6"),
    "an instance as an argument": (CLASS, "assert total(Pair(1, 2)) == 3 and total(make(3, 4)) == 7"),
    "instances in a list": (CLASS, "assert [total(p) for p in [Pair(1, 2), Pair(3, 4)]] == [3, 7]"),
    "an attribute that is set": (CLASS, "p = make(1, 2)\np.a = 5\nassert total(p) == 7"),
    "length, iteration, items": (CLASS, "p = make(1, 2)\nassert len(p) == 2 and list(p) == [1, 2] and p[1] == 2"),
    "membership": (CLASS, "assert 2 in make(1, 2) and 3 not in make(1, 2)"),
    "its text": (CLASS, "assert str(make(1, 2)) == 'Pair(1, 2)' == repr(make(1, 2))"),
    "its class": (CLASS, "assert isinstance(make(1, 2), Pair) and not isinstance(make, Pair)"),
    "itself": (CLASS, "p = make(1, 2)\nassert p == p and p != make(1, 2) and p in [p]"),
    "a constant": (CLASS, "assert make(LIMIT, 1).a == 7"),
    "a generator": ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2] and next(f(2)) == 0"),
    "an endless generator": (
        "def f():\n    n = 0\n    while True:\n        yield n\n        n += 1",
        "g = f()\nassert [next(g) for _ in range(3)] == [0, 1, 2]",
    ),
    "a map": ("def f(xs): return map(str, xs)", "assert list(f([1, 2])) == ['1', '2'] and set(f([1])) == {'1'}"),
    "a dictionary's keys": ("def f(d): return d.keys()", "assert sorted(f({2: 1, 1: 1})) == [1, 2]"),
    "a function that is returned": ("def f(n): return lambda x: x + n", "assert f(2)(3) == 5"),
    "a function that is passed": (
        "def f(g, xs): return [g(x) for x in xs]",
        "assert f(lambda x: x * 2, [1, 2]) == [2, 4]",
    ),
    "a built-in that is passed": (
        "def f(g, xs): return g(xs)",
        "assert f(max, [1, 3, 2]) == 3 and f(tuple, [1]) == (1,)",
    ),
    "a function that is passed and fails": (
        "def f(g):\n    try:\n        g()\n    except ValueError as e:\n        return str(e)",
        "def fail():\n    raise ValueError('no')\nassert f(fail) == 'no'",
    ),
    "a named tuple": (
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)",
        "assert f() == (1, 2) and f().y == 2",
    ),
    "a counter": (
        "from collections import Counter\ndef f(s): return Counter(s)",
        "assert f('aab') == {'a': 2, 'b': 1}",
    ),
    "an exception": (
        "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
        "try:\n    f(-1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'negative'",
    ),
    "an exception of its own class": (
        "class Bad(ValueError): pass\ndef f(): raise Bad('x')",
        "try:\n    f()\nexcept ValueError:\n    pass\nelse:\n    assert False",
    ),
    "an argument changed in place": ("def f(xs): xs.sort()", "xs = [3, 1]\nf(xs)\nassert xs == [1, 3]"),
    "a dictionary changed in place": ("def f(d): d['a'] = [1]", "d = {}\nassert f(d) is None and d == {'a': [1]}"),
    "not a number": ("def f(): return float('nan')", "import math\nassert math.isnan(f()) and f() != f()"),
    "big integers": ("def f(n): return 2 ** n", "assert f(20000) == 1 << 20000"),
    "recursion": ("def f(n): return n and 1 + f(n - 1)", "assert f(500) == 500"),
    "a dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(3)",
        "assert f().x == 3",
    ),
    "types": (
        "from typing import List, Optional\ndef f(x: Optional[List[int]]) -> int: return 1",
        "assert f(None) == 1",
    ),
    "state between calls": ("n = 0\ndef f():\n    global n\n    n += 1\n    return n", "assert f() == 1 and f() == 2"),
    "tests that use the standard library": ("def f(x): return x", "assert math.isclose(f(1.0), 1) and sqrt(f(4)) == 2"),
}
FAILS: dict[str, tuple[str, str]] = {
    "an object is not its data": (CLASS, "assert make(1, 2) == (1, 2)"),
    "an object is not another one": (CLASS, "assert make(1, 2) == Pair(1, 2)"),
    "a generator is not its list": ("def f(): yield 1", "assert f() == [1]"),
    "a list is not a tuple": ("def f(): return [1]", "assert f() == (1,)"),
    "a result besides a change": (
        "def f(xs):\n    xs.sort()\n    return xs",
        "xs = [3, 1]\nf(xs)\nassert xs == [1, 3]",
    ),
    "no arithmetic with objects": (
        "class N:\n    def __add__(s, o): return 5\ndef f(): return N()",
        "assert f() + 1 == 5",
    ),
}


@NEEDS_LEVEL_A
@pytest.mark.parametrize("name", WORKS)
def test_tests_may_use(name: str, verifier: CodeVerifier) -> None:
    program, test = WORKS[name]
    judgement = verifier.judge([(program, CodeTests(asserts=(test,)))])[0]
    assert judgement.verdict == "passed", judgement


@NEEDS_LEVEL_A
@pytest.mark.parametrize("name", FAILS)
def test_what_is_no_plain_data_does_not_pass_for_it(name: str, verifier: CodeVerifier) -> None:
    program, test = FAILS[name]
    judgement = verifier.judge([(program, CodeTests(asserts=(test,)))])[0]
    assert judgement.verdict in ("wrong_answer", "runtime_error"), judgement


def test_the_examples_of_dates_and_numbers_are_plain() -> None:
    for value in (
        date(2024, 2, 29),
        datetime(2024, 2, 29, 1, 2, 3, 4),
        timedelta(-1, 2, 3),
        Decimal("1.10"),
        Fraction(1, 3),
    ):
        assert decode(encode(value, refuse), refuse) == value
