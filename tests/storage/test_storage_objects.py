"""A history in an object store: the same protocol, the same answers, and every failure told by its name."""

import contextlib
import posixpath
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import object_servers
import obstore
import pyarrow as pa
import pytest
from history_samples import decision, fill, selected, shard_rows
from object_servers import BUCKET, Environment, Proxy
from obstore.store import S3Store
from test_storage_crashes import go, small_disk, start_writer

from storage.catalog import connect
from storage.files import CorruptFile, MissingFile, StoreError, StoreFull
from storage.history import RunHistory
from storage.objects import ObjectStore
from storage.readonly import open_readonly
from storage.stores import open_store
from storage.tables import TABLES

Made = Callable[..., RunHistory]
SHARD = "data/run=r1/stage=1/epoch=0/step=0/shard-000.parquet"


def bucket(name: str = BUCKET) -> S3Store:
    return S3Store(name, client_options={"allow_http": True})


def at(history: RunHistory, key: str) -> str:
    return history.store.url(key).removeprefix(f"s3://{BUCKET}/")


def test_a_history_in_an_object_store_answers_like_one_on_a_disk(
    honest: Environment, in_bucket: Made, filled: RunHistory
) -> None:
    history = in_bucket()
    fill(history)
    for name in ("trajectories", *TABLES, "flips", "step_stats"):
        query = f"FROM {name} ORDER BY ALL"
        assert history.sql(query).equals(filled.sql(query)), name
    assert history.read_step(1, 1, 0).equals(filled.read_step(1, 1, 0))
    assert selected(history, stage=1, epoch=1).equals(selected(filled, stage=1, epoch=1))
    assert history.read("decisions").equals(filled.read("decisions"))
    kept = {key for place in ("data", "index", "tables") for key in filled.store.keys(place)}
    assert set(history.store.keys("")) == kept | {"_probe"}
    assert {p.name for p in history.directory.iterdir()} == {"_tmp", "policies", "history.duckdb"}
    assert list(history.tmp_root.iterdir()) == []


def test_first_writer_wins_in_a_bucket_and_a_retry_adopts(honest: Environment, in_bucket: Made) -> None:
    history = in_bucket()
    first, second = (shard_rows(["a"], [[1.0]], seed=seed) for seed in (1, 2))
    with pytest.raises(StoreError, match=r"write all 1 shards first; s3://.*shard-000\.parquet is missing"):
        history.commit_step(1, 0, 0, 1)
    assert history.write_shard(1, 0, 0, 0, first)
    assert not history.write_shard(1, 0, 0, 0, second)
    assert history.has_shard(1, 0, 0, 0)
    assert not history.is_committed(1, 0, 0)
    with pytest.raises(StoreError, match=r"Step 0 .* is not committed: s3://.* is missing"):
        history.read_step(1, 0, 0)
    assert history.commit_step(1, 0, 0, 1)
    assert not history.commit_step(1, 0, 0, 1)
    assert history.read_step(1, 0, 0)["token_ids"].to_pylist() == first["token_ids"].to_pylist()
    history.create()  # as a resumed run does
    assert history.read_step(1, 0, 0)["token_ids"].to_pylist() == first["token_ids"].to_pylist()
    history.store.remove(SHARD)
    history.store.remove(SHARD)
    assert not history.has_shard(1, 0, 0, 0)


def test_of_processes_racing_in_a_bucket_exactly_one_publishes(honest: Environment, in_bucket: Made) -> None:
    history = in_bucket()
    writers = [start_writer(history.directory, 3, 4, 2000, history.store.root) for _ in range(2)]
    for writer in writers:
        go(writer)
    lines = [line.split() for writer in writers for line in writer.communicate(timeout=120)[0].splitlines()]
    assert all(writer.returncode == 0 for writer in writers)
    for step in range(3):
        rows = history.read_step(1, 0, step)
        for shard in range(2):
            winners = [line[4] for line in lines if line[:4] == ["shard", str(step), str(shard), "True"]]
            assert winners == [str(rows["token_ids"][shard * 8].as_py()[0])]
        assert [line[2] for line in lines if line[:2] == ["step", str(step)]].count("True") == 1


def test_a_store_that_accepts_a_second_conditional_write_is_refused(
    tmp_path: Path, in_bucket: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").mkdir()
    with object_servers.rclone(tmp_path / "served") as given:
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=r"accepted a second conditional write \(If-None-Match.*Use a store that"):
            in_bucket()
        assert [path for path in (tmp_path / "served").rglob("*") if path.is_file()] == []


LOSSES = {
    "ours stands": ("answer", None, True),
    "another's stands": ("request", b"another's", False),
    "nothing stands": ("request", None, None),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_write_whose_answer_was_lost_is_settled_by_what_stands(case: str, proxy: Proxy, in_bucket: Made) -> None:
    loss, standing, expected = LOSSES[case]
    history = in_bucket()
    key = at(history, SHARD)
    if standing:
        obstore.put(bucket(), key, standing)
    proxy.lose = lambda method, path: loss if method == "PUT" and path.endswith("shard-000.parquet") else ""
    published = None
    with contextlib.suppress(StoreError) if expected is not None else pytest.raises(StoreError, match="could not be"):
        published = history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
    assert published is expected
    assert history.has_shard(1, 0, 0, 0) is (expected is not None)
    assert list(history.tmp_root.iterdir()) == []


def test_a_retry_that_meets_its_own_object_counts_as_published(proxy: Proxy, in_bucket: Made) -> None:
    history, lost = in_bucket(), iter(["answer"])
    proxy.lose = lambda method, path: next(lost, "") if method == "PUT" and path.endswith("shard-000.parquet") else ""
    assert history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))
    assert not history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]]))  # the same rows, another attempt


def asked(proxy: Proxy, work: Callable[[], object]) -> list[tuple[str, str]]:
    del proxy.requests[:]
    work()
    return list(proxy.requests)


def test_small_questions_cost_one_request_and_selecting_reads_its_own_epoch(proxy: Proxy, in_bucket: Made) -> None:
    history = in_bucket()
    fill(history)
    assert [method for method, _ in asked(proxy, lambda: history.is_committed(1, 0, 0))] == ["HEAD"]
    assert [method for method, _ in asked(proxy, lambda: history.has("epochs", stage=1, epoch=0))] == ["HEAD"]
    rows = shard_rows(["z"], [[1.0]])
    assert [method for method, _ in asked(proxy, lambda: history.write_shard(1, 7, 0, 0, rows))] == ["PUT"]
    read = asked(proxy, lambda: history.read_step(1, 0, 0))
    assert [method for method, _ in read] == ["GET"] * 3  # the index and two shards, nothing listed
    paths = [path for _, path in asked(proxy, lambda: selected(history, stage=1, epoch=1))]
    assert all("stage=1/epoch=1" in path.replace("%3D", "=").replace("%2F", "/") for path in paths)
    assert not any("/data/" in path for path in paths)
    one_step = "SELECT completion FROM trajectories WHERE stage = 1 AND epoch = 0 AND step = 0"
    read = asked(proxy, lambda: history.sql(one_step))
    shards = {path for method, path in read if method == "GET" and "/shard-" in path}
    assert len(shards) == 2
    assert all("stage=1/epoch=0/step=0" in path.replace("%3D", "=") for path in shards)


def test_a_store_of_runs_lists_only_what_each_run_is_asked_for(proxy: Proxy, in_bucket: Made) -> None:
    root = f"s3://{BUCKET}/many"
    for run in ("r1", "r2"):
        fill(in_bucket(run, root=root))
    counts = "SELECT run, count(*) AS n FROM rollouts GROUP BY run ORDER BY run"
    with open_readonly(root) as views:
        found: list[pa.Table] = []
        requests = asked(proxy, lambda: found.append(views.query(counts)))
        assert found[0].to_pylist() == [{"run": "r1", "n": 12}, {"run": "r2", "n": 12}]
    listed = [path for _, path in requests if "prefix=" in path and "delimiter" not in path]
    assert listed
    assert all("index" in path for path in listed)


OUTSIDE = (
    "FROM 's3://{bucket}/beside.csv'", "FROM 's3://other-bucket/x.csv'", "FROM '{root}/../../beside.csv'",
    "FROM '{root}/../beside.csv'", "FROM '{root}-beside/x.csv'", "FROM read_text('s3://{bucket}/*.csv')",
    "FROM glob('s3://*/*')", "FROM 's3a://{bucket}/beside.csv'", "FROM read_text('/etc/passwd')",
    "FROM read_text('file:///etc/passwd')", "FROM read_text('{local}/history.duckdb')",
    "FROM 'http://127.0.0.1:1/x.csv'", "COPY (SELECT 1) TO '{root}/x.csv'",
    "WITH x AS (COPY (SELECT 1) TO '{root}/x.csv') FROM x", "ATTACH '{root}/x.duckdb'",
)  # fmt: skip


@pytest.mark.parametrize("many", [False, True])
def test_a_query_reads_nothing_outside_its_place_and_writes_nothing(many: bool, proxy: Proxy, in_bucket: Made) -> None:
    history = in_bucket()
    root = history.store.root.rpartition("/")[0] if many else history.store.root
    for key in ("beside.csv", at(history, "../beside.csv"), f"{root.removeprefix(f's3://{BUCKET}/')}-beside/x.csv"):
        obstore.put(bucket(), posixpath.normpath(key), b"a,b\n1,2\n")
    before = {each["path"] for page in obstore.list(bucket()) for each in page}
    with open_readonly(root) as views:
        del proxy.requests[:]
        for query in OUTSIDE:
            with pytest.raises(StoreError, match=r"Permission Error|Refused|No files found|alone may be read"):
                views.query(query.format(bucket=BUCKET, root=root, local=history.directory))
        assert not any("beside" in path or method not in ("GET", "HEAD") for method, path in proxy.requests)
        assert views.query("SELECT count(*) AS n FROM epochs")["n"].to_pylist() == [0]
    assert {each["path"] for page in obstore.list(bucket()) for each in page} == before


def test_even_an_open_connection_sees_its_own_place_alone(proxy: Proxy, in_bucket: Made) -> None:
    history = in_bucket()
    obstore.put(bucket(), "beside.csv", b"a,b\n1,2\n")
    with connect(history.store) as views:
        for query in (f"FROM 's3://{BUCKET}/beside.csv'", f"COPY (SELECT 1) TO '{history.store.root}/x.csv'"):
            with pytest.raises(Exception, match=r"may be read|only read here"):
                views.execute(query)
    assert "x.csv" not in "".join(history.store.keys(""))


@pytest.mark.parametrize("harm", ["truncated", "flipped", "missing"])
def test_a_broken_object_is_named_and_nothing_is_committed(harm: str, honest: Environment, in_bucket: Made) -> None:
    history = in_bucket()
    history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]], tokens=999))
    history.commit_step(1, 0, 0, 1)
    history.write_shard(1, 0, 1, 0, shard_rows(["a"], [[1.0]], tokens=999))
    for key in (SHARD, SHARD.replace("step=0", "step=1")):
        content = bytearray(history.store.read(key))
        content[len(content) // 2] ^= 1
        history.store.remove(key)
        if harm != "missing":
            obstore.put(bucket(), at(history, key), bytes(content[:-9] if harm == "truncated" else content))
    with pytest.raises(CorruptFile, match=r"s3://\S*shard-000\.parquet.*remove .*resume"):
        history.read_step(1, 0, 0)
    with pytest.raises(StoreError, match=r"s3://\S*shard-000\.parquet"):
        history.commit_step(1, 0, 1, 1)
    assert not history.is_committed(1, 0, 1)


def test_wrong_credentials_and_a_missing_bucket_are_named(
    servers: Callable[[str], Environment], in_bucket: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in servers("seaweed").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=r"no bucket 'no-such-bucket'\. Make it, or mend the URL"):
        in_bucket(root="s3://no-such-bucket/x")
    history = in_bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = RunHistory(history.directory, "r1", open_store(history.store.root, history.tmp_root))
    for work in (
        lambda: refused.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]])),
        lambda: refused.is_committed(1, 0, 0),
        lambda: refused.read("decisions"),
        lambda: refused.sql("FROM epochs"),
        refused.create,
    ):
        with pytest.raises(StoreError, match=r"s3://.*refused access\. Check AWS_ACCESS_KEY_ID.*may list, read, write"):
            work()
    assert not history.has_shard(1, 0, 0, 0)


def test_a_store_that_cannot_be_reached_is_named_in_half_a_minute(in_bucket: Made, proxy: Proxy) -> None:
    history = in_bucket()
    with connect(history.store) as views:
        proxy.lose = lambda _method, _path: "request"
        for work in (
            lambda: history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]])),
            lambda: history.has("epochs", stage=1, epoch=0),
            lambda: history.read("decisions"),
            lambda: history.sql("FROM epochs"),
        ):
            with pytest.raises(StoreError, match=r"s3://\S*: the store failed or could not be reached\..*AWS_ENDPOINT"):
                work()
        with pytest.raises(Exception, match="could not be reached"):
            views.execute("FROM epochs").fetchall()
    proxy.lose = lambda _method, _path: ""
    assert not history.has_shard(1, 0, 0, 0)
    assert list(history.tmp_root.iterdir()) == []


def test_a_full_local_disk_is_named_and_nothing_goes_to_the_bucket(proxy: Proxy, in_bucket: Made) -> None:
    with small_disk("1m") as disk:
        made = in_bucket()
        shutil.copytree(made.directory, disk / "r1")
        history = RunHistory(disk / "r1", "r1", ObjectStore(made.store.root, disk / "r1" / "_tmp"))
        with pytest.raises(StoreFull, match=r"shard-000\.parquet was not written: no space is left"):
            history.write_shard(1, 0, 0, 0, shard_rows(["a"], [[1.0]], tokens=500_000))
        assert not history.has_shard(1, 0, 0, 0)
        assert list(history.tmp_root.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://B", "s3://bucket/a b", "s3://key:secret@bucket/x", "s3://bucket/../x", "s3://bucket/x?y=1",
     "s3://bucket/*", "gs://bucket/x", "https://bucket/x", "file://relative"],
)  # fmt: skip
def test_urls_that_name_no_place_are_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"names no object store|is no place"):
        open_store(url)


def test_a_file_url_is_a_directory(tmp_path: Path) -> None:
    history = RunHistory(tmp_path / "r1", "r1", open_store(f"file://{tmp_path}/els%20where/r1"))
    history.create()
    fill(history)
    assert (tmp_path / "els where" / "r1" / SHARD).is_file()
    assert not (tmp_path / "r1" / "data").exists()
    assert history.sql("SELECT count(*) AS n FROM trajectories")["n"].to_pylist() == [12]
    assert list((tmp_path / "els where" / "r1" / "_tmp").iterdir()) == []
    with pytest.raises(MissingFile, match=r"shard-009\.parquet is missing"):
        history.store.read(SHARD.replace("000.p", "009.p"))


def test_without_a_run_directory_files_are_prepared_among_the_systems_temporaries(
    proxy: Proxy, in_bucket: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = in_bucket()
    (tmp_path / "temporaries").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporaries"))
    store = open_store(history.store.root)
    assert store.publish("extra/file", lambda path: path.write_bytes(b"whole") and None)
    assert store.read("extra/file") == b"whole"
    assert list((tmp_path / "temporaries").iterdir()) == []


def test_publishing_the_same_decisions_twice_in_a_bucket_says_which_stand(honest: Environment, in_bucket: Made) -> None:
    history = in_bucket()
    assert history.publish("decisions", [decision("a")], stage=1, epoch=0)
    assert not history.publish("decisions", [decision("b")], stage=1, epoch=0)
    assert history.read("decisions", stage=1, epoch=0, name="rows")["prompt_id"].to_pylist() == ["a"]
