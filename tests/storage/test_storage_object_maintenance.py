"""Verify, compaction, pruning and export of a history in an object store."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from history_samples import fill
from object_servers import Environment

from storage.catalog import connect
from storage.compaction import compact
from storage.export import export_dataset
from storage.history import RunHistory
from storage.retention import plan_pruning, prune
from storage.stores import open_store
from storage.verify import verify


def test_a_history_in_a_bucket_is_kept_like_one_on_a_disk(
    honest: Environment, in_bucket: Callable[..., RunHistory], tmp_path: Path
) -> None:
    history = in_bucket()
    fill(history)
    before = history.sql("FROM rollouts ORDER BY ALL")
    assert compact(history) == [(1, 0), (1, 1)]
    assert history.sql("FROM rollouts ORDER BY ALL").equals(before)
    with connect(open_store(history.store.root.rpartition("/")[0])) as many:
        assert many.sql("FROM rollouts ORDER BY ALL").to_arrow_table().equals(before)
    assert export_dataset(history, tmp_path / "set") == 12
    assert pq.read_table(tmp_path / "set" / "data").num_rows == 12

    (plan,) = plan_pruning(history, [(1, 0)])
    prune(history, plan)
    found = verify(history.store)
    assert found.faults == []
    assert (found.files["shards"], found.files["compacted"], found.rollouts) == (2, 2, 12)
    assert history.sql("FROM rollouts ORDER BY ALL").equals(before)

    shard = "data/run=r1/stage=1/epoch=1/step=0/shard-001.parquet"
    history.store.remove(shard)
    (fault,) = verify(open_store(history.store.root)).faults
    assert (fault.place, fault.what) == (history.store.url(shard), "is missing")
