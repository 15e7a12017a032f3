"""`srpo sql` in processes of its own: what it reads, how it writes it, and the prompt on a terminal."""

import csv
import importlib.util
import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.prompt import is_complete
from storage.history import RunHistory

SAMPLES = Path(__file__).parents[1] / "storage" / "history_samples.py"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the runs r1 and r2, with rows in every table."""
    spec = importlib.util.spec_from_file_location("history_samples_of_sql", SAMPLES)
    assert spec is not None
    assert spec.loader is not None
    samples = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(samples)
    root = tmp_path_factory.mktemp("sql") / "runs"
    for name in ("r1", "r2"):
        history = RunHistory(root / name, name)
        history.create()
        samples.fill(history)
    return root


def srpo(
    *arguments: str | Path, stdin: str | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    given = {"input": stdin.encode()} if stdin is not None else {"stdin": subprocess.DEVNULL}
    return subprocess.run(
        [sys.executable, "-m", "flows", "sql", *map(str, arguments)], capture_output=True, cwd=cwd, check=False,
        timeout=120, env=os.environ | {"PYTHONPATH": os.getcwd()}, **given,
    )  # type: ignore[call-overload,no-any-return]  # fmt: skip


def test_a_store_is_named_by_run_directory_root_or_url(store: Path) -> None:
    count = ["SELECT count(*) AS n FROM rollouts", "--format", "csv"]
    for target, n in (("r1", 12), (store / "r1", 12), (store, 24), (store.as_uri(), 24), (f"{store.as_uri()}/r2", 12)):
        done = srpo(target, *count, "--store", store)
        assert done.stdout == f'"n"\n{n}\n'.encode(), done.stderr


def test_a_runs_name_is_meant_before_a_directory_of_the_same_name(store: Path, tmp_path: Path) -> None:
    (tmp_path / "r1").mkdir()
    assert b"12" in srpo("r1", "SELECT count(*) AS n FROM rollouts", "--store", store, cwd=tmp_path).stdout


ROWS = """SELECT prompt_id, accuracy, list(sample ORDER BY sample) AS samples, 'a"b,' || chr(10) || 'c' AS text,
NULL AS nothing, sum(sample) AS total, 'nan'::DOUBLE AS nan FROM rollouts WHERE epoch = 0 AND prompt_id = 'b'
GROUP BY ALL ORDER BY accuracy"""


def test_csv_json_and_parquet_hold_the_same_whole_rows(store: Path, tmp_path: Path) -> None:
    made = {form: srpo("r1", ROWS, "--format", form, "--store", store) for form in ("csv", "json", "parquet")}
    assert [done.stderr for done in made.values()] == [b""] * 3
    read = json.loads(made["json"].stdout)
    assert read == [
        {"prompt_id": "b", "accuracy": a, "samples": [s], "text": 'a"b,\nc', "nothing": None, "total": s, "nan": None}
        for s, a in enumerate([0.0, 1.0])
    ]
    header, *lines = csv.reader(io.StringIO(made["csv"].stdout.decode()))
    assert header == list(read[0])
    assert lines == [["b", str(s), f"[{s}]", 'a"b,\nc', "", str(s), "nan"] for s in range(2)]
    table = pq.read_table(io.BytesIO(made["parquet"].stdout))
    assert table.column_names == header
    assert table["samples"].to_pylist() == [[0], [1]]
    for form, done in made.items():
        written = tmp_path / f"rows.{form}"
        assert srpo("r1", ROWS, "--format", form, "-o", written, "--store", store).stdout == b""
        assert form == "parquet" or written.read_bytes() == done.stdout
    assert pq.read_table(tmp_path / "rows.parquet").equals(table.replace_schema_metadata(None)) or table.num_rows == 2


def test_long_texts_are_shortened_in_a_table_alone(store: Path) -> None:
    query = "SELECT repeat('x', 5000) AS long, '[bold]b' AS marked"
    table = srpo("r1", query, "--store", store).stdout.decode()
    assert "x" * 119 + "…" in table
    assert "[bold]b" in table
    assert "x" * 5000 in srpo("r1", query, "--format", "csv", "--store", store).stdout.decode()


def test_statements_come_from_a_file_or_a_pipe_and_are_told_in_order(store: Path, tmp_path: Path) -> None:
    text = "-- first\nSELECT 1 AS first; -- a note;\nSELECT ';' AS second"
    (tmp_path / "queries.sql").write_text(text)
    from_file = srpo("r1", "-f", tmp_path / "queries.sql", "--store", store)
    assert from_file.stdout == srpo("r1", "--store", store, stdin=text).stdout
    assert from_file.stdout.index(b"first") < from_file.stdout.index(b"second")


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        (["SELECT 1; DROP VIEW rollouts"], None, "Refused: DROP"),
        (["SELECT 1; SELECT 2", "--format", "csv"], None, "2 statements"),
        (["SELECT 1 AS a, 2 AS a", "--format", "json"], None, "one name"),
        (["SELECT INTERVAL 1 MONTH AS a", "--format", "parquet"], None, "cast its column"),
        (["SELECT 1", "--format", "xml"], None, "choose one of table, csv, json, parquet"),
        (["SELECT 1", "-f", "a.sql"], None, "not both"),
        (["-f", "nothing.sql"], None, "nothing.sql cannot be read"),
        (["SELECT 1", "-o", "nowhere/a.csv", "--format", "csv"], None, "cannot be written"),
        ([], "SELEC 1", "cannot be parsed"),
    ],
)
def test_what_cannot_be_is_told_in_a_line_without_a_trace(
    store: Path, arguments: list[str], stdin: str | None, why: str
) -> None:
    done = srpo("r1", *arguments, "--store", store, stdin=stdin)
    assert done.returncode in (1, 2)
    assert why in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


def test_nothing_is_written_into_the_store(store: Path) -> None:
    done = srpo("r1", "SELECT 1 AS a", "-o", store / "r1" / "a.csv", "--format", "csv", "--store", store)
    assert done.returncode == 2
    assert b"lies in the store" in done.stderr
    assert not (store / "r1" / "a.csv").exists()


def test_a_result_that_fails_midway_leaves_what_was_there(store: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("before")
    late = "SELECT CASE WHEN range < 500000 THEN 1 ELSE error('late') END AS a FROM range(1000000)"
    done = srpo("r1", late, "--format", "csv", "-o", tmp_path / "rows.csv", "--store", store)
    assert (done.returncode, b"late" in done.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.csv"]
    assert (tmp_path / "rows.csv").read_text() == "before"


def test_a_reader_that_has_seen_enough_ends_the_query_quietly(store: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "flows",
        "sql",
        "r1",
        "FROM range(1000000000)",
        "--format",
        "csv",
        "--store",
        str(store),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b'"range"\n'
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


class Terminal:
    """`srpo sql` on a terminal of 100 columns."""

    def __init__(self, store: Path, home: Path, *arguments: str) -> None:
        self.screen, inner = pty.openpty()
        command = ["-m", "flows", "sql", "r1", "--store", str(store), *arguments]
        environment = os.environ | {"XDG_STATE_HOME": str(home), "TERM": "dumb", "COLUMNS": "100"}
        # A session of its own, whose terminal is the one that it opens first: Ctrl-C comes as a signal, then.
        code = (
            "import os, sys; os.setsid(); os.close(os.open(os.ttyname(0), os.O_RDWR));"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *command], stdin=inner, stdout=inner, stderr=inner, env=environment
        )
        os.close(inner)

    def until(self, mark: str, seen: str = "") -> str:
        """What comes up to a mark, after what was seen."""
        while mark not in seen:
            assert select.select([self.screen], [], [], 60)[0], f"{mark!r} did not come, but {seen!r}"
            try:
                seen += os.read(self.screen, 65536).decode()
            except OSError:  # the other end is closed
                break
        return seen

    def say(self, text: str, mark: str = "srpo> ") -> str:
        os.write(self.screen, text.encode())
        return self.until(mark)

    def interrupt(self) -> str:
        """Ctrl-C, again while it is not heard: one that comes in while a query is prepared, or a line, is lost."""
        seen = ""
        for _ in range(20):
            os.write(self.screen, b"\x03")
            while "given up" not in seen and select.select([self.screen], [], [], 3)[0]:
                seen += os.read(self.screen, 65536).decode()
            if "given up" in seen:
                break
        given_up, heard, rest = seen.rpartition("given up")
        return given_up + heard + self.until("srpo> ", rest)


def test_the_prompt_asks_on_and_remembers(store: Path, tmp_path: Path) -> None:
    terminal = Terminal(store, tmp_path)
    assert "`.help`" in terminal.until("srpo> ")
    assert "best_and_worst(prompt)" in terminal.say(".tables\n")
    assert "SHA-256 of its model" in terminal.say(".schema policies\n")
    assert "there is no nothing" in terminal.say(".schema nothing\n")
    terminal.say("SELECT 41 + 1 AS\n", "...> ")
    assert "42" in terminal.say(" answer;\n").replace("41", "")
    assert "policy_version" in terminal.say("FROM rollouts LIMIT 1;\n")
    assert "Refused: DROP" in terminal.say("DROP VIEW rollouts;\n")
    terminal.say("SELECT\n", "...> ")
    assert "given up" in terminal.interrupt()
    terminal.say("SELECT count(*) FROM range(1000000000000) AS t(a) WHERE a % 7 = 3;\n", "\n")
    assert "given up" in terminal.interrupt()
    terminal.say("\x04", "never")
    assert terminal.process.wait(60) == 0
    os.close(terminal.screen)
    assert ".schema policies" in (tmp_path / "srpo" / "sql_history").read_text()


def test_parquet_is_not_for_a_terminal(store: Path, tmp_path: Path) -> None:
    terminal = Terminal(store, tmp_path, "SELECT 1", "--format", "parquet")
    assert "--output FILE" in terminal.until("never")
    assert terminal.process.wait(60) == 2
    os.close(terminal.screen)


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("SELECT 1;", True), ("SELECT 'é;' ; -- done", True), ("SELECT 1", False), ("SELECT ';", False), ("", False),
        ("SELECT 1 -- ;", False), ("SELECT 1 /* ;", False), ("SELECT $$a;$$", False), ("SELECT ';';\n", True),
    ],
)  # fmt: skip
def test_a_statement_ends_with_its_own_semicolon(text: str, complete: bool) -> None:
    assert is_complete(text) == complete
