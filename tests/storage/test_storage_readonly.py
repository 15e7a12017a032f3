"""Read-only means read-only: what passes only reads, and only the store; all that DuckDB offers else is refused."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from history_samples import fill, shard_rows

from storage.files import StoreError
from storage.history import RunHistory
from storage.queries import in_memory
from storage.readonly import _READING_FUNCTIONS, BATCH, ReadOnlyStore, open_readonly

SECRET = "not of the store"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run r1 with a sibling r10 and secrets beside it, to which links in the run's directory lead."""
    root = tmp_path_factory.mktemp("readonly")
    for name in ("r1", "r10"):
        history = RunHistory(root / "store" / name, name)
        history.create()
        fill(history)
    (root / "secret.csv").write_text(SECRET)
    with duckdb.connect(str(root / "secret.duckdb")) as other:
        other.execute(f"CREATE TABLE t AS SELECT '{SECRET}' AS a")
        other.execute(f"COPY t TO '{root}/secret.parquet'")
    run = root / "store" / "r1"
    (run / "link.csv").symlink_to(root / "secret.csv")
    (run / "folder").symlink_to(root)
    return run


@pytest.fixture(scope="module")
def store(place: Path) -> Iterator[ReadOnlyStore]:
    with open_readonly(place) as opened:
        yield opened


def everything(place: Path) -> dict[str, int]:
    """All files around the run, with their sizes."""
    return {str(path): path.lstat().st_size for path in place.parents[1].rglob("*")}


@pytest.mark.parametrize(
    "query",
    [
        "FROM rollouts", "SHOW TABLES", "DESCRIBE rollouts", "SUMMARIZE rollouts", "EXPLAIN FROM flips",
        "explain analyze SELECT 1", "EXPLAIN (ANALYZE, FORMAT json) FROM rollouts", "-- note\nEXPLAIN SELECT 1",
        "VALUES (1)", "SELECT 1 UNION SELECT 2", "FROM rollouts_of('a') LIMIT 1;", "TABLE rollouts",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 4) FROM t",
        "WITH a AS (FROM rollouts) SELECT count(*) FROM a", "SELECT 'DELETE_NODE', 'COPY x TO y'",
        "SELECT {type: 'COPY_QUERY_NODE', function_name: 'query'} AS a", "/* ; COPY */ SELECT 1 -- ; COPY",
        "PIVOT rollouts ON epoch IN (0, 1) USING count(*)", "FROM query_table('rollouts')",
        "FROM histogram(rollouts, step)",
        "FROM read_parquet('{}/index/*/*/*/*.parquet')", "FROM glob('{}/*')", "FROM search('a', 1, 0)", "SELECT ? + 1",
        "FROM duckdb_views() WHERE comment IS NOT NULL", "SELECT unnest([1, 2]), x FROM range(3) AS t(x)",
    ],
)  # fmt: skip
def test_what_reads_is_answered(store: ReadOnlyStore, place: Path, query: str) -> None:
    parameters = [1] if "?" in query else None
    assert store.query(query.replace("{}", str(place)), parameters).num_rows > 0


COPY = "COPY (SELECT 1 AS a) TO '{}/written.csv'"
HIDDEN = f"WITH x AS ({COPY}) SELECT * FROM x"


def serialized(query: str) -> str:
    """A query as the text that json_execute_serialized_sql runs."""
    with in_memory() as connection:
        return str(connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchall()[0][0])


def quoted(text: str) -> str:
    return text.replace("'", "''")


WRITES = [
    (COPY, "Refused: COPY"),
    ("COPY rollouts FROM '{}/secret.csv'", "Refused: COPY"),
    (HIDDEN, "holds COPY"),
    (f"SELECT (SELECT a FROM ({HIDDEN}))", "holds COPY"),
    (f"SELECT 1 WHERE EXISTS ({HIDDEN})", "holds COPY"),
    ("WITH x AS MATERIALIZED (COPY rollouts TO '{}/written.csv') SELECT 1", "holds COPY"),
    (f"DESCRIBE ({HIDDEN})", "holds COPY"),
    (f"SUMMARIZE {HIDDEN}", "holds COPY"),
    (f"FROM (PIVOT ({HIDDEN}) ON a IN (1) USING count(*))", "holds COPY"),
    (f"PIVOT ({HIDDEN}) ON a USING count(*)", "PIVOT"),
    (f"EXPLAIN ANALYZE {COPY}", "Refused: COPY"),
    (f"EXPLAIN (ANALYZE) {COPY}", "Refused: COPY"),
    (f"explain analyze {HIDDEN}", "holds COPY"),
    (f"EXPLAIN (ANALYZE, FORMAT json) {HIDDEN}", "holds COPY"),
    (f"/* note */ EXPLAIN ANALYZE {HIDDEN}", "holds COPY"),
    (f"EXPLAIN /* /* */ SELECT 1 -- */ ANALYZE {COPY}", "Refused|parsed"),
    (f"EXPLAIN/**/ANALYZE {COPY}", "Refused|parsed"),
    (f"EXPLAIN --\nANALYZE {COPY}", "Refused|parsed"),
    (f"SELECT 1; {COPY}", "Refused: COPY"),
    (f"SELECT 1; -- {SECRET}\n; /* */ {COPY};", "Refused: COPY"),
    ("INSERT INTO rollouts VALUES (1)", "Refused: INSERT"),
    ("WITH x AS (INSERT INTO rollouts VALUES (1) RETURNING *) FROM x", "holds INSERT"),
    ("WITH x AS (UPDATE rollouts SET step = 1 RETURNING *) FROM x", "holds UPDATE"),
    ("WITH x AS (TRUNCATE rollouts) FROM x", "holds DELETE"),
    ("MERGE INTO rollouts USING prompts ON true WHEN MATCHED THEN DELETE", "Refused: MERGE"),
    ("CREATE TEMP TABLE t AS SELECT 1", "Refused: CREATE"),
    ("CREATE MACRO f(x) AS x", "Refused: CREATE"),
    ("ALTER VIEW rollouts RENAME TO x", "Refused: ALTER"),
    ("COMMENT ON VIEW rollouts IS 'x'", "Refused: ALTER"),
    ("DROP VIEW rollouts", "Refused: DROP"),
    ("EXPORT DATABASE '{}/written'", "Refused: EXPORT"),
    ("IMPORT DATABASE '{}/folder'", "Refused: PRAGMA"),
    ("ATTACH '{}/new.duckdb'", "Refused: ATTACH"),
    ("ATTACH '{}/folder/secret.duckdb' AS x (READ_ONLY)", "Refused: ATTACH"),
    ("USE memory", "Refused: SET"),
    ("SET lock_configuration = false", "Refused: SET"),
    ("RESET allowed_directories", "Refused: SET"),
    ("PRAGMA version", "Refused: PRAGMA"),
    ("CALL pragma_version()", "Refused: CALL"),
    ("CHECKPOINT", "Refused: CALL"),
    ("VACUUM", "Refused: VACUUM"),
    ("INSTALL httpfs", "Refused: LOAD"),
    ("LOAD '{}/folder/x.duckdb_extension'", "Refused: LOAD"),
    ("PREPARE x AS SELECT 1", "Refused: PREPARE"),
    ("EXECUTE x", "Refused: EXECUTE"),
    ("BEGIN", "Refused: TRANSACTION"),
    ("FROM query('SELECT 1')", r"Refused: query\(\)"),
    ("FROM (SELECT * FROM system.main.\"QUERY\"('SELECT 1'))", r"Refused: query\(\)"),
    ("FROM json_execute_serialized_sql('{json}')", r"Refused: json_execute_serialized_sql\(\)"),
    ("FROM destroy_external_resource('json_execute_serialized_sql', '{json}')", "Refused: destroy_external_resource"),
    ("FROM enable_logging('QueryLog', storage = 'file', storage_path = '{}/written')", "Refused: enable_logging"),
    ("FROM enable_profiling(save_location := '{}/written')", "Refused: enable_profiling"),
    ("SELEC 1", "cannot be parsed"),
    ("", "0 statements"),
    ("SELECT " + "+".join(["1"] * 990), "nested too deeply"),
]


@pytest.mark.parametrize(("query", "why"), WRITES)
def test_what_writes_or_executes_is_refused_with_the_reason(
    store: ReadOnlyStore, place: Path, query: str, why: str
) -> None:
    before = everything(place)
    json = quoted(serialized(HIDDEN.replace("{}", str(place))))
    with pytest.raises(StoreError, match=why):
        store.query(query.replace("{json}", json).replace("{}", str(place)))
    assert everything(place) == before
    assert store.query("SELECT 1 AS a")["a"].to_pylist() == [1]


def test_the_attacks_that_are_refused_here_do_write_in_an_unguarded_duckdb(place: Path, tmp_path: Path) -> None:
    hidden = quoted(serialized(HIDDEN.replace("{}", str(tmp_path))))
    for query in (
        HIDDEN.replace("{}", str(tmp_path)),
        f"FROM destroy_external_resource('json_execute_serialized_sql', '{hidden}')",
    ):
        with in_memory() as connection:
            connection.execute(query)
        (tmp_path / "written.csv").unlink()


OUTSIDE = [
    "read_text('/etc/passwd')", "read_text('/proc/self/environ')", "read_csv('/dev/stdin')",
    "read_text('pyproject.toml')",
    "read_text(['{}/settings.yaml', '/etc/passwd'])", "read_text('{}/../../secret.csv')",
    "read_text('{}//..//../secret.csv')",
    "read_text('{}/link.csv')", "read_text('{}/link*')", "read_text('{}/folder/secret.csv')",
    "read_csv('{}/*/secret.csv')",
    "read_parquet('{}/folder/secret.parquet')", "'{}/folder/secret.parquet'", "'{}/../../secret.parquet'",
    "read_parquet(['{}/index/*/*/*/*.parquet', '{}/../../secret.parquet'])",
    "read_blob('{}/index/**/../../../secret.csv')",
    "parquet_metadata('{}/folder/secret.parquet')", "parquet_schema('{}/folder/secret.parquet')",
    "sniff_csv('{}/folder/secret.csv')", "query_table('{}/folder/secret.parquet')", "'{}/folder/secret.duckdb'",
    "read_parquet('{}0/index/*/*/*/*.parquet')", "read_parquet('{}*/index/*/*/*/*.parquet')",
    "read_parquet('{}/../*/index/*/*/*/*.parquet')", "glob('/etc/*')", "glob('{}/../*')", "glob('{}/folder/*')",
    "glob('~/*')",
    "read_text('file:///etc/passwd')", "read_text('https://example.com/x')", "read_parquet('s3://bucket/x.parquet')",
    "read_text('hf://datasets/x/y')", "duckdb_secrets()", "duckdb_extensions()",
]  # fmt: skip


@pytest.mark.parametrize("source", OUTSIDE)
def test_nothing_outside_the_store_is_read(store: ReadOnlyStore, place: Path, source: str) -> None:
    with pytest.raises(StoreError, match=r"Permission Error|Refused: duckdb_\w+\(\)"):
        store.query(f"FROM {source.replace('{}', str(place))}")


def test_the_environment_is_not_told(store: ReadOnlyStore) -> None:
    with pytest.raises(StoreError, match="getenv does not exist"):
        store.query("SELECT getenv('HOME')")


def test_every_table_function_that_may_be_called_was_looked_at() -> None:
    """A function that DuckDB renames or drops leaves the list, and so does one that nobody can call."""
    with in_memory() as connection:
        known = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
        ).fetchall()
    assert {name for (name,) in known} >= _READING_FUNCTIONS


def test_all_statements_of_a_text_are_checked_before_one_is_run(store: ReadOnlyStore) -> None:
    assert len(store.check("SELECT 1; -- a note; DROP\nFROM rollouts;; SELECT ';'")) == 3
    with pytest.raises(StoreError, match="Refused: DROP"):
        store.check("SELECT 1; DROP VIEW rollouts")
    with pytest.raises(StoreError, match="2 statements"):
        store.query("SELECT 1; SELECT 2")


def test_a_store_that_is_reached_by_a_link_or_by_dots_is_read(place: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(place.parent)
    for way in (tmp_path / "here" / "r1", place.parent / "r10" / ".." / "r1", tmp_path / "here"):
        with open_readonly(way) as opened:
            assert opened.query("SELECT count(*) AS n FROM trajectories WHERE run = 'r1'")["n"].to_pylist() == [12]


def test_what_spills_goes_to_a_place_of_its_own_that_is_removed(place: Path) -> None:
    with open_readonly(place) as opened:
        (spill,) = opened.query("SELECT current_setting('temp_directory') AS a")["a"].to_pylist()
        (allowed,) = opened.query("SELECT current_setting('allowed_directories') AS a")["a"].to_pylist()
        assert Path(spill).is_dir()
        assert {Path(path) for path in allowed} == {Path(spill), place}
    assert not Path(spill).exists()


def test_an_open_store_sees_what_is_committed_later(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "r1", "r1")
    history.create()
    with open_readonly(history.directory) as opened:
        for step in range(3):
            assert opened.query("SELECT count(*) AS n FROM trajectories")["n"].to_pylist() == [2 * step]
            history.write_shard(1, 0, step, 0, shard_rows(["a"], [[1.0, 0.0]]))
            history.commit_step(1, 0, step, 1)


def test_a_result_is_streamed_in_batches(store: ReadOnlyStore) -> None:
    (reading,) = store.check("FROM range(1_000_000_000_000)")
    rows = store.stream(reading)
    assert rows.schema.names == ["range"]
    assert 0 < next(rows.batches).num_rows <= BATCH
    assert store.query("SELECT 1 AS a").num_rows == 1  # what was left of it is given up


def test_an_error_in_the_midst_of_a_result_is_told(store: ReadOnlyStore) -> None:
    (reading,) = store.check("SELECT CASE WHEN range < 500000 THEN 1 ELSE error('late') END FROM range(1000000)")
    with pytest.raises(StoreError, match="late"):
        list(store.stream(reading).batches)


@pytest.mark.parametrize("query", ["SELECT count(*) FROM range(1_000_000_000_000) AS t(a) WHERE a % 7 = 3"])
def test_an_interrupt_ends_a_query_and_leaves_the_store_usable(store: ReadOnlyStore, query: str) -> None:
    (reading,) = store.check(query)
    interrupt = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        list(store.stream(reading).batches)
    interrupt.join()
    assert store.query("SELECT 1 AS a").num_rows == 1
