"""Export: any query to a file, a run to a dataset folder with a card; nothing is overwritten, nothing half is left."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from history_samples import fill
from test_storage_crashes import small_disk

import storage.export
from storage.export import export_dataset, write_table
from storage.files import CorruptFile, StoreError, StoreFull
from storage.history import RunHistory
from storage.retention import plan_pruning, prune
from storage.tables import SHARDS


def test_a_table_is_written_once_and_never_over_what_is_there(tmp_path: Path) -> None:
    rows = pa.table({"a": [1, 2], "b": ["x", None]})
    write_table(rows, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet") == rows
    with pytest.raises(StoreError, match=r"out\.parquet exists, and nothing is overwritten"):
        write_table(pa.table({"a": [3]}), tmp_path / "out.parquet")
    with pytest.raises(StoreError, match="make the directory"):
        write_table(rows, tmp_path / "none" / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet") == rows
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]


def test_a_dataset_has_every_committed_rollout_in_order(
    filled: RunHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage.export, "FILE_BYTES", 1)  # a file for each of the two steps
    assert export_dataset(filled, tmp_path / "set") == 12
    files = sorted(path.name for path in (tmp_path / "set" / "data").iterdir())
    assert files == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    rows = pa.concat_tables([pq.read_table(tmp_path / "set" / "data" / name) for name in files])
    expected = pa.concat_tables([filled.read_step(1, epoch, 0) for epoch in range(2)])
    assert rows.to_pylist() == expected.to_pylist()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_card_tells_every_column_as_it_is(filled: RunHistory, tmp_path: Path) -> None:
    export_dataset(filled, tmp_path / "set")
    _, front, text = (tmp_path / "set" / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert card["size_categories"] == ["n<1K"]
    (path,) = (tmp_path / "set" / "data").iterdir()
    told = {
        each["name"]: pa.list_(pa.type_for_alias(each["sequence"]))
        if "sequence" in each
        else pa.type_for_alias(each["dtype"])
        for each in card["dataset_info"]["features"]
    }
    assert told == {
        field.name: pa.list_(field.type.value_type) if pa.types.is_list(field.type) else field.type
        for field in pq.read_schema(path)
    }
    for column in SHARDS.columns:
        assert f"| `{column.name}` |" in text
        assert column.description in text
    assert "12 rollouts of 36 completion tokens" in text


def test_pruned_epochs_are_left_out_and_the_card_says_so(history: RunHistory, tmp_path: Path) -> None:
    fill(history)
    for plan in plan_pruning(history, [(1, 0)]):
        prune(history, plan)
    assert export_dataset(history, tmp_path / "set") == 6
    text = (tmp_path / "set" / "README.md").read_text()
    assert "| 1 | 0 | 3 | 6 | 0.167 | 3 | pruned: not in this dataset |" in text
    assert "| 1 | 1 | 3 | 6 | 0.500 | 3 |  |" in text


def test_a_full_disk_is_named_and_keeps_nothing_of_an_export(filled: RunHistory) -> None:
    def told(export: Callable[[], object]) -> str:
        with pytest.raises(StoreFull) as raised:
            export()
        return str(raised.value)

    with small_disk("1m") as disk:
        (disk / "filler").write_bytes(bytes(255 * 4096))  # one page is left
        large = pa.table({"a": np.random.default_rng(0).random(100_000)})
        messages = [
            told(lambda: export_dataset(filled, disk / "set")),
            told(lambda: write_table(large, disk / "out.parquet")),
        ]
        gc.collect()  # what the errors still hold would keep the disk from being unmounted
        assert [path.name for path in disk.iterdir()] == ["filler"]
    assert [message.partition(":")[0].rpartition("/")[2] for message in messages] == [
        "set was not written",
        "out.parquet was not written",
    ]


def test_nothing_is_left_of_an_export_that_cannot_be(history: RunHistory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(StoreError, match="has no rollouts to export"):
        export_dataset(history, out / "set")
    with pytest.raises(StoreError, match="exists, and nothing is overwritten"):
        export_dataset(history, out)
    fill(history)
    shard = history.directory / "data/run=r1/stage=1/epoch=1/step=0/shard-001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptFile, match="shard-001"):
        export_dataset(history, out / "set")
    assert list(out.iterdir()) == []
