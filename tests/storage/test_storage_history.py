"""Tables, shards and steps: what goes in comes out, what does not fit is refused, what is broken is named."""

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from history_samples import decision, fill, shard_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.files import CorruptFile, StoreError, publish_directory, remove_directory, temporary_directory
from storage.history import RunHistory
from storage.tables import INDEX, PUBLISHED, SHARDS, Column, Table, conform, write_parquet

RELAXED = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FRESH = itertools.count()
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)


def value_of(column: Column) -> st.SearchStrategy[object]:
    floats = st.floats(allow_nan=False, allow_infinity=not column.finite)
    by_type = {"string": TEXT, "int64": INT64, "double": floats, "bool": st.booleans()}
    values = st.sampled_from(column.values) if column.values else by_type[str(column.type)]
    return st.none() | values if column.nullable else values


def rows_of(table: Table) -> st.SearchStrategy[list[dict[str, object]]]:
    columns = {c.name: value_of(c) for c in table.columns if c.name not in table.key}
    return st.lists(st.fixed_dictionaries(columns), max_size=5)


@RELAXED
@given(st.data())
def test_published_rows_come_back_exactly(history: RunHistory, data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(PUBLISHED))
    rows = data.draw(rows_of(table))
    name = f"n{next(FRESH)}"
    assert history.publish(table.name, rows, stage=1, epoch=2, name=name)
    back = history.read(table.name, stage=1, epoch=2, name=name)
    assert back.schema.equals(table.schema)
    assert back.to_pylist() == [{"run": "r1", "stage": 1, "epoch": 2, **row} for row in rows]


@RELAXED
@given(
    groups=st.lists(st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=4), min_size=2, max_size=5),
    lengths=st.integers(0, 9),
    seed=st.integers(0, 2**32),
)
def test_committed_step_comes_back_exactly(
    history: RunHistory, groups: list[list[float | None]], lengths: int, seed: int
) -> None:
    step = next(FRESH)
    names = [f"p{i}" for i in range(len(groups))]
    first = shard_rows(names[:1], groups[:1], tokens=lengths, seed=seed)
    second = shard_rows(names[1:], groups[1:], position=first.num_rows, tokens=lengths, seed=seed + 1)
    assert history.write_shard(1, 0, step, 0, first)
    assert history.write_shard(1, 0, step, 1, second)
    assert not history.is_committed(1, 0, step)
    assert history.commit_step(1, 0, step, 2)
    back = history.read_step(1, 0, step)
    assert back.schema.equals(SHARDS.schema)
    assert back.drop(list(SHARDS.key)).to_pylist() == pa.concat_tables([first, second]).to_pylist()
    assert back["step"].unique().to_pylist() == [step]


def test_same_rows_give_the_same_bytes(history: RunHistory, tmp_path: Path) -> None:
    rows = shard_rows([f"p{i}" for i in range(100)], [[0.0, None, 1.0]] * 100, tokens=7)
    # Texts of several pages a row group: there, pages would end where a caller's chunks do.
    long = pa.array([str(i) * 9000 for i in range(rows.num_rows)])
    rows = rows.set_column(rows.column_names.index("completion"), "completion", long)
    chunked = pa.concat_tables([rows.slice(i, 7) for i in range(0, rows.num_rows, 7)])
    key: dict[str, str | int] = {"run": "r1", "stage": 1, "epoch": 0, "step": 0}
    for name, given_rows in (("one", rows), ("two", rows), ("three", chunked)):
        write_parquet(tmp_path / name, conform(SHARDS, given_rows, key))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == (tmp_path / "three").read_bytes()
    other = RunHistory(tmp_path / "other", "r1")
    other.create()
    for each in (history, other):
        each.write_shard(1, 0, 0, 0, rows)
        each.commit_step(1, 0, 0, 1)
    index = Path("index/run=r1/stage=1/epoch=0/step-000000.parquet")
    assert (history.directory / index).read_bytes() == (other.directory / index).read_bytes()


def test_parquet_is_written_as_measured(history: RunHistory) -> None:
    history.write_shard(1, 0, 0, 0, shard_rows([f"p{i}" for i in range(300)], [[0.0, 1.0]] * 300))
    history.commit_step(1, 0, 0, 1)
    file = pq.ParquetFile(history.directory / "data/run=r1/stage=1/epoch=0/step=0/shard-000.parquet")
    assert max(file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)) == 256
    group = file.metadata.row_group(0)
    for i in range(group.num_columns):
        column = group.column(i)
        wide = column.path_in_schema.endswith(".element")
        assert column.compression == "ZSTD"
        assert ("BYTE_STREAM_SPLIT" in column.encodings) == wide
        assert not (wide and column.has_dictionary_page)
        assert column.is_stats_set == (not wide and column.path_in_schema not in ("prompt", "completion"))
    assert file.schema_arrow.field("token_ids").type.value_field.nullable is False
    index = pq.ParquetFile(history.directory / "index/run=r1/stage=1/epoch=0/step-000000.parquet")
    assert (index.metadata.num_rows, index.metadata.num_row_groups) == (600, 1)


def test_first_writer_wins_and_the_second_changes_nothing(history: RunHistory) -> None:
    first, second = (shard_rows(["a"], [[1.0]], seed=seed) for seed in (1, 2))
    assert history.write_shard(1, 0, 0, 0, first)
    assert not history.write_shard(1, 0, 0, 0, second)
    assert history.commit_step(1, 0, 0, 1)
    assert not history.commit_step(1, 0, 0, 1)
    assert history.read_step(1, 0, 0)["token_ids"].to_pylist() == first["token_ids"].to_pylist()
    assert history.publish("decisions", [decision("a")], stage=1, epoch=0)
    assert not history.publish("decisions", [decision("b")], stage=1, epoch=0)
    assert history.read("decisions", stage=1, epoch=0, name="rows")["prompt_id"].to_pylist() == ["a"]


def test_published_directory_is_the_first_one_until_it_is_removed(history: RunHistory) -> None:
    final = history.directory / "policies" / "version-000001"
    for content, wins in (("first", True), ("second", False)):
        with temporary_directory(history.tmp_root) as prepared:
            (prepared / "model").write_text(content)
            assert publish_directory(prepared, final) is wins
    assert (final / "model").read_text() == "first"
    assert list(history.tmp_root.iterdir()) == []
    remove_directory(final, history.tmp_root)
    assert not final.exists()
    assert list(history.tmp_root.iterdir()) == []
    with pytest.raises(StoreError, match="prepare it again"):
        publish_directory(history.tmp_root / "nothing", final)


def test_tables_are_read_in_order_of_stage_epoch_and_name(history: RunHistory) -> None:
    for stage, epoch, name in ((2, 0, "b"), (1, 10, "a"), (1, 9, "b"), (1, 9, "a")):
        history.publish("decisions", [decision(f"{stage}-{epoch}-{name}")], stage=stage, epoch=epoch, name=name)
    assert history.read("decisions")["prompt_id"].to_pylist() == ["1-9-a", "1-9-b", "1-10-a", "2-0-b"]
    assert history.read("decisions", epoch=9, name="b")["prompt_id"].to_pylist() == ["1-9-b"]
    assert history.read("decisions", stage=7).num_rows == 0
    assert history.has("decisions", stage=2, epoch=0, name="b")
    assert not history.has("decisions", stage=2, epoch=0)
    with pytest.raises(StoreError, match=r"rows\.parquet is missing"):
        history.read("decisions", stage=2, epoch=0, name="rows")


def without(row: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**decision("a"), "colour": "red"}], r"unknown columns \['colour'\]"),
        ([without(decision("a"), "pass_rate", "keep")], r"missing columns \['keep', 'pass_rate'\]"),
        ([{**decision("a"), "reason": None}], r"Column reason .* may not be null"),
        ([{**decision("a"), "graded": "8"}], r"Column graded .*must be int64"),
        (pa.Table.from_pylist([{**decision("a"), "graded": "8"}]), r"Column graded .*must be int64, not string"),
        (pa.Table.from_pylist([{**decision("a"), "graded": 1.5}]), r"Column graded .*must be int64, not double"),
        ([{**decision("a"), "pass_rate": float("nan")}], r"Column pass_rate .*neither NaN"),
        ([{**decision("a"), "bucket": "simple"}], r"Column bucket .*must be one of easy, .*not simple"),
        ([{**decision("a"), "run": "other"}], r"Column run .*must be 'r1' in every row"),
        ([decision("a"), without(decision("b"), "step")], "row 1 has columns"),
    ],
)
def test_rows_that_do_not_fit_are_refused(history: RunHistory, rows: object, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        history.publish("decisions", rows, stage=1, epoch=0)
    assert not history.has("decisions", stage=1, epoch=0)
    assert list(history.tmp_root.iterdir()) == []


@pytest.mark.parametrize(("column", "value"), [("accuracy", np.nan), ("reward", np.inf), ("logprobs", [np.nan])])
def test_rollouts_that_are_no_numbers_are_refused(history: RunHistory, column: str, value: object) -> None:
    rows = shard_rows(["a"], [[1.0]])
    spoiled = rows.set_column(rows.column_names.index(column), column, pa.array([value], rows[column].type))
    with pytest.raises(StoreError, match=rf"Column {column} .*neither NaN nor infinity"):
        history.write_shard(1, 0, 0, 0, spoiled)


def test_list_of_other_integer_type_with_nulls_inside_is_refused(history: RunHistory) -> None:
    rows = shard_rows(["a"], [[1.0]]).drop(["token_ids"])
    good = rows.append_column("token_ids", pa.array([[1, 2, 3]], pa.large_list(pa.int64())))
    assert history.write_shard(1, 0, 0, 0, good)
    with pytest.raises(StoreError, match=r"token_ids .*null elements"):
        history.write_shard(1, 0, 0, 1, rows.append_column("token_ids", pa.array([[1, None]], pa.list_(pa.int32()))))
    with pytest.raises(StoreError, match=r"token_ids .*must be list"):
        history.write_shard(1, 0, 0, 1, rows.append_column("token_ids", pa.array([[2**40]])))


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (shard_rows(["a"], [[1.0]], position=2), "prompt_id and sample must be unique"),
        (shard_rows(["b"], [[1.0]], position=0), "position must be unique"),
        (shard_rows(["a"], [[1.0, 1.0, 0.0]], position=2).slice(2), "a group must lie in one shard"),
    ],
)
def test_shards_that_contradict_each_other_are_not_committed(
    history: RunHistory, second: pa.Table, message: str
) -> None:
    history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0, 0.0]]))
    with pytest.raises(StoreError, match=r"shard-001\.parquet"):
        history.commit_step(1, 0, 0, 2)
    history.write_shard(1, 0, 0, 1, second)
    with pytest.raises(StoreError, match=message):
        history.commit_step(1, 0, 0, 2)
    assert not history.is_committed(1, 0, 0)


def test_step_without_rollouts_or_shards_is_not_committed(history: RunHistory) -> None:
    history.write_shard(1, 0, 0, 0, SHARDS.empty())
    with pytest.raises(StoreError, match="no rollouts"):
        history.commit_step(1, 0, 0, 1)
    with pytest.raises(StoreError, match="at least one shard"):
        history.commit_step(1, 0, 0, 0)
    with pytest.raises(StoreError, match="not committed"):
        history.read_step(1, 0, 0)


def test_shard_of_another_place_is_not_committed(history: RunHistory) -> None:
    history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
    shards = history.directory / "data/run=r1/stage=1/epoch=0"
    (shards / "step=1").mkdir()
    (shards / "step=1/shard-000.parquet").write_bytes((shards / "step=0/shard-000.parquet").read_bytes())
    with pytest.raises(StoreError, match=r"Column step .*must be 1 in every row"):
        history.commit_step(1, 0, 1, 1)


@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing"])
def test_broken_shard_is_named_with_a_remedy(history: RunHistory, harm: str) -> None:
    history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]], tokens=999))
    history.commit_step(1, 0, 0, 1)
    shard = history.directory / "data/run=r1/stage=1/epoch=0/step=0/shard-000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[:-9] if harm == "truncated" else content)
    with pytest.raises(CorruptFile, match=r"shard-000\.parquet.*[Rr]emove|shard-000\.parquet.*remove .*resume"):
        history.read_step(1, 0, 0)


def test_broken_shard_is_not_committed(history: RunHistory) -> None:
    history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
    shard = history.directory / "data/run=r1/stage=1/epoch=0/step=0/shard-000.parquet"
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(CorruptFile, match="shard-000"):
        history.commit_step(1, 0, 0, 1)
    assert not history.is_committed(1, 0, 0)


def test_flipped_bit_in_a_table_is_named(history: RunHistory) -> None:
    history.publish("decisions", [decision(f"{i}") for i in range(50)], stage=1, epoch=0)
    path = history.directory / "tables/decisions/run=r1/stage=1/epoch=0/rows.parquet"
    content = bytearray(path.read_bytes())
    content[60] ^= 4
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"decisions.*rows\.parquet cannot be read"):
        history.read("decisions")


def test_wrong_names_are_refused(history: RunHistory) -> None:
    for run in ("", "a/b", "..", ".hidden", "a b"):
        with pytest.raises(StoreError, match="cannot name a run"):
            RunHistory(history.directory, run)
    for name in ("empty", "../x", ""):
        with pytest.raises(StoreError, match="cannot name rows"):
            history.publish("decisions", [], stage=1, epoch=0, name=name)
    with pytest.raises(StoreError, match=r"no table 'rollouts'.*write_shard"):
        history.read("rollouts")
    with pytest.raises(StoreError, match="no table 'decision': the tables are prompts, machines, changes, decisions"):
        history.has("decision", stage=0, epoch=0)
    with pytest.raises(StoreError, match="count from 0"):
        history.publish("decisions", [], stage=1, epoch=-1)
    with pytest.raises(StoreError, match="already keeps run=r1"):
        RunHistory(history.directory, "r2").create()


def test_create_again_keeps_everything(history: RunHistory) -> None:
    fill(history)
    before = {p: p.read_bytes() for p in history.directory.rglob("*.parquet")}
    history.create()
    assert {p: p.read_bytes() for p in history.directory.rglob("*.parquet")} == before


def test_every_column_is_described_and_typed() -> None:
    for table in (SHARDS, INDEX, *PUBLISHED):
        assert table.description
        for column in table.columns:
            assert len(column.description) > 5
            assert str(column.type) in {
                "string", "int64", "double", "bool",
                "list<element: int32 not null>", "list<element: float not null>",
            }  # fmt: skip
    assert INDEX.schema.names[:4] == SHARDS.schema.names[:4] == ["run", "stage", "epoch", "step"]


def test_storage_imports_without_torch_transformers_and_prefect() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'prefect', 'srpo_core', 'flows'): sys.modules[name] = None\n"
        "import storage.history, storage.readonly, storage.catalog, storage.files, storage.tables\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
