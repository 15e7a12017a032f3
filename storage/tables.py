"""One source for every table: its columns with units, how rows are checked against it, how they become Parquet.

Files carry the key columns (run, stage, epoch and, for rollouts, step) inside as well as in their paths, with the
same types: DuckDB prunes files by the path, and a file that was copied elsewhere still says what it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.files import CorruptFile, StoreError

ROW_GROUP = 256  # rows with lists; a reader of a few rollouts decodes no more than this many
NARROW_ROW_GROUP = 65_536  # rows without: each group's metadata costs more to read than its narrow columns
_SEAL = "srpo.sha256"  # footer key of a file's own SHA-256, computed with its 64 digits as zeros
_SEAL_HEAD = _SEAL.encode() + b"\x18\x40"  # what stands before the digits: Thrift's "text of 64 bytes follows"
_UNSEALED = b"0" * 64

_TEXT, _INT, _FLOAT, _BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TOKENS = pa.list_(pa.field("element", pa.int32(), nullable=False))
_LOGPROBS = pa.list_(pa.field("element", pa.float32(), nullable=False))


@dataclass(frozen=True)
class Column:
    """One column: name, Arrow type, what it means with its unit, and what it may hold."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False
    finite: bool = False  # neither NaN nor infinite: NaN sorts above 1 in SQL and would count as correct
    values: tuple[str, ...] = ()  # the only texts allowed, when given

    @property
    def is_list(self) -> bool:
        """Whether each value is a list (token ids, log-probabilities)."""
        return bool(pa.types.is_list(self.type))


@dataclass(frozen=True)
class Table:
    """One table: name, what one row is, and its columns; `key` names those that the file's path fixes."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ("run", "stage", "epoch")

    @cached_property
    def schema(self) -> pa.Schema:
        """The Arrow schema of this table's files, nullability included."""
        return pa.schema([pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns])

    def empty(self) -> pa.Table:
        """A table of zero rows with this schema."""
        return self.schema.empty_table()


_RUN = Column("run", _TEXT, "name of the run")
_STAGE = Column("stage", _INT, "training stage: 1 math, 2 math and code, 0 before training")
_EPOCH = Column("epoch", _INT, "epoch within the stage, from 0")
_STEP = Column("step", _INT, "step within the epoch, from 0")
_PROMPT = Column("prompt_id", _TEXT, "content hash of the problem, 16 hexadecimal digits")
_DOMAIN = Column("domain", _TEXT, "math or code")
_DIFFICULTY = Column("difficulty", _INT, "difficulty class of the problem, larger is harder")
_SAMPLE = Column("sample", _INT, "which rollout of the prompt, from 0")
_SEED = Column("seed", _INT, "seed that alone fixes this rollout's random numbers")
_SUITE = Column("suite", _TEXT, "heldout, the run's own held-out problems, or a suite of `srpo eval`")
_VERSION = Column("policy_version", _INT, "policy version that sampled, in updates since the base (base 0)")
_COMPLETION_TOKENS = Column("completion_tokens", _INT, "length of the completion, in tokens")
_FINISH = Column("finish_reason", _TEXT, "stop (it ended itself) or length (it was cut)", values=("stop", "length"))
_GRADES = (
    Column("verdict", _TEXT, "what the grader said, in a word"),
    Column("accuracy", _FLOAT, "answer's score, 0 to 1; null: not graded", nullable=True, finite=True),
    Column(
        "tests_passed", _FLOAT, "share of a program's tests passed, 0 to 1; null: none ran", nullable=True, finite=True
    ),
    Column("format", _FLOAT, "form's score, 0 to 1", finite=True),
    Column("code_in_math", _FLOAT, "1 where a math completion holds code, else 0", finite=True),
    Column("mixed_language", _FLOAT, "1 where it is in another script than its question, else 0", finite=True),
    Column("overlong", _FLOAT, "how far it reaches into the last tokens allowed, 0 to 1; 0 when off", finite=True),
    Column("reward", _FLOAT, "total reward that training uses; null: not graded", nullable=True, finite=True),
)
_NARROW = (
    _RUN, _STAGE, _EPOCH, _STEP,
    Column("position", _INT, "place in the step, from 0; the rollouts of a group stand together"),
    _PROMPT, _DOMAIN, _DIFFICULTY, _SAMPLE, _SEED, _VERSION,
    Column("prompt_tokens", _INT, "length of the prompt, in tokens"),
    _COMPLETION_TOKENS, _FINISH, *_GRADES,
    Column("used", _BOOL, "whether the update uses it; false: discarded by dynamic sampling"),
)  # fmt: skip
WIDE_ONLY = (
    Column("prompt", _TEXT, "the prompt as text, template included"),
    Column("completion", _TEXT, "the completion as text"),
    Column("prompt_token_ids", _TOKENS, "token ids of the prompt"),
    Column("token_ids", _TOKENS, "token ids of the completion, the end token included"),
    Column("logprobs", _LOGPROBS, "sampler's log-probability of each completion token, in nats", finite=True),
)
_POINTERS = (
    Column("file", _TEXT, "shard that holds the rollout, relative to the run's directory"),
    Column("row", _INT, "row within the shard, from 0"),
)
BUCKETS = ("easy", "mixed", "hard", "unvisited", "ungraded", "new")
_MOVES = ("continue", "switch", "finish")
_KINDS = ("rollout", "update", "evaluate", "resample", "epoch", "prepare")

SHARDS = Table("data", "one row per rollout of one shard, with texts, token ids and log-probabilities",
               _NARROW + WIDE_ONLY, key=("run", "stage", "epoch", "step"))  # fmt: skip
INDEX = Table("rollouts", "one row per committed rollout, without texts and tokens, and where its shard is",
              _NARROW + _POINTERS, key=("run", "stage", "epoch", "step"))  # fmt: skip

PUBLISHED = (
    Table("prompts", "one row per problem of the run, for training or held out", (
        _RUN, _STAGE, _EPOCH, _PROMPT, _DOMAIN, _DIFFICULTY,
        Column("question", _TEXT, "the problem's text"),
        Column("answer", _TEXT, "the reference answer, or the tests"),
        Column("source", _TEXT, "where the problem comes from"),
        Column("split", _TEXT, "train or heldout", values=("train", "heldout")))),
    Table("machines", "one row per fact about a machine that worked on the run", (
        _RUN, _STAGE, _EPOCH,
        Column("machine", _TEXT, "hash of all its facts, 16 hexadecimal digits"),
        Column("fact", _TEXT, "python, torch, platform, sandbox_level or sandbox_reason"),
        Column("value", _TEXT, "what was found"))),
    Table("changes", "one row per setting that was changed after the run began", (
        _RUN, Column("stage", _INT, "training stage that the run stood in; 0: before training"),
        Column("epoch", _INT, "newest epoch of the stage that was planned, from 0"),
        Column("change", _INT, "which time settings were changed, from 1; its file in the run tells who and when"),
        Column("policy_version", _INT, "newest policy version then, in updates since the base (base 0)"),
        Column("setting", _TEXT, "the setting's place, such as guards.max_hours"),
        Column("before", _TEXT, "its value before, as JSON"), Column("after", _TEXT, "its value since, as JSON"))),
    Table("decisions", "one row per candidate prompt and epoch: whether that epoch samples it, and why", (
        _RUN, _STAGE, Column("epoch", _INT, "the epoch that the decision builds"), _PROMPT, _DOMAIN, _DIFFICULTY,
        Column("keep", _BOOL, "whether the epoch samples the prompt"),
        Column("bucket", _TEXT, "what its last visit showed; new: none yet", values=BUCKETS),
        Column("reason", _TEXT, "the decision in a sentence"),
        Column("graded", _INT, "graded rollouts that decided, a count"),
        Column("correct", _INT, "correct ones among them, a count"),
        Column("pass_rate", _FLOAT, "correct / graded; null: none graded", nullable=True, finite=True),
        Column("selector", _TEXT, "name of the rule that decided"),
        Column("step", _INT, "step of that epoch that will sample it; null: none", nullable=True),
        Column("position", _INT, "its place within that step, from 0; null: none", nullable=True),
        Column("weight", _FLOAT, "probability with which it was kept, 0 to 1; null: not drawn", nullable=True,
               finite=True),
        Column("visits", _INT, "epochs that visited it before, a count"),
        Column("last_stage", _INT, "training stage of its last visit; null: none", nullable=True),
        Column("last_epoch", _INT, "epoch of its last visit; null: none", nullable=True))),
    Table("epochs", "one row per planned epoch; appears after the epoch's decisions", (
        _RUN, _STAGE, _EPOCH,
        Column("prompts", _INT, "prompts in the epoch's set, a count"),
        Column("steps", _INT, "steps of the epoch, a count"),
        Column("first_version", _INT, "policy version at its start, in updates"),
        Column("selector", _TEXT, "name of the rule that built the set"))),
    Table("evaluations", "one row per evaluation, domain and difficulty class (null: all together)", (
        _RUN, _STAGE, _EPOCH, _SUITE,
        Column("after", _INT, "epochs of the stage that were finished; stage 0, after 0 is the base"), _VERSION,
        Column("domain", _TEXT, "math or code; null: both", nullable=True),
        Column("difficulty", _INT, "difficulty class; null: all", nullable=True),
        Column("n", _INT, "problems, a count"), Column("samples", _INT, "rollouts per problem, a count"),
        Column("pass_at_1", _FLOAT, "mean share of correct rollouts, 0 to 1", finite=True),
        Column("low", _FLOAT, "lower end of its 95 % interval", finite=True),
        Column("high", _FLOAT, "upper end of its 95 % interval", finite=True),
        Column("pass_at_k", _FLOAT, "mean share of problems solved within k = `samples` rollouts, 0 to 1", finite=True),
        Column("mean_tokens", _FLOAT, "mean completion length, in tokens", finite=True),
        Column("truncated", _FLOAT, "share of completions cut at the maximum length, 0 to 1", finite=True),
        Column("ungraded", _FLOAT, "share of rollouts not graded, 0 to 1; pass@1 counts them as wrong", finite=True))),
    Table("evaluation_rollouts", "one row per rollout of an evaluation", (
        _RUN, _STAGE, Column("epoch", _INT, "`after` of its evaluation: epochs of the stage that were finished"),
        _SUITE, _PROMPT, _DOMAIN, _DIFFICULTY, _SAMPLE, _SEED, _VERSION,
        Column("completion", _TEXT, "the completion as text"), _COMPLETION_TOKENS, _FINISH, *_GRADES)),
    Table("metrics", "one row per measured value; the unit is in the name (timing_s/*: seconds)", (
        _RUN, _STAGE, _EPOCH, _STEP, Column("policy_version", _INT, "policy version at work, in updates"),
        Column("kind", _TEXT, "which kind of work measured it", values=_KINDS),
        Column("name", _TEXT, "name of the value, as TRL and verl call it"), Column("value", _FLOAT, "the value"))),
    Table("policies", "one row per published policy version", (
        _RUN, Column("version", _INT, "policy version, in updates since the base (base 0)"),
        _STAGE, _EPOCH, Column("step", _INT, "step whose update made it"),
        Column("path", _TEXT, "its directory, relative to the run's directory"),
        Column("sha256", _TEXT, "SHA-256 of its model.safetensors, hexadecimal"))),
    Table("pruned", "one row per epoch whose shards were removed: its rollouts have no texts and tokens any more", (
        _RUN, _STAGE, _EPOCH,
        Column("steps", _INT, "steps of the epoch, a count"),
        Column("shards", _INT, "shards removed, a count"),
        Column("rollouts", _INT, "rollouts in them, a count"),
        Column("bytes", _INT, "their size, in bytes"))),
    Table("transitions", "one row per finished epoch: whether the stage goes on, and why", (
        _RUN, _STAGE, _EPOCH,
        Column("decision", _TEXT, "continue, switch (to the next stage) or finish", values=_MOVES),
        Column("reason", _TEXT, "the decision in a sentence"),
        Column("slope", _FLOAT, "slope of stage_progress.accuracy, per step; null: too few steps", nullable=True),
        Column("gain", _FLOAT, "gain of that accuracy over the window; null: too few steps", nullable=True),
        Column("window", _INT, "length of the window, in steps"),
        Column("steps", _INT, "steps of the stage so far, a count"),
        Column("prompts", _INT, "prompts left for the next epoch, a count"))),
    Table("visits", "one row per prompt and epoch that visited it: what its rollouts showed", (
        _RUN, _STAGE, _EPOCH, _PROMPT,
        Column("rollouts", _INT, "rollouts, a count"),
        Column("graded", _INT, "graded ones among them, a count"),
        Column("correct", _INT, "correct ones among them, a count"),
        Column("mean_reward", _FLOAT, "mean reward of the graded ones; null: none", nullable=True, finite=True),
        Column("mean_tokens", _FLOAT, "mean completion length, in tokens", finite=True))),
)  # fmt: skip
TABLES = {table.name: table for table in (INDEX, *PUBLISHED)}


def conform(table: Table, rows: pa.Table | Sequence[Mapping[str, Any]], key: Mapping[str, str | int]) -> pa.Table:
    """Rows as this table's exact schema, or a StoreError that says which column is wrong and how.

    Columns of `key` (run, stage, epoch and for shards step) may be left out, since the file's path fixes them; where
    they are given they must agree. Every other column must be there (nullable ones too), and no other.
    """
    data = rows if isinstance(rows, pa.Table) else _from_dicts(table, rows)
    names = [column.name for column in table.columns]
    unknown = sorted(set(data.column_names) - set(names))
    missing = [name for name in names if name not in data.column_names and name not in key]
    if unknown or missing or len(set(data.column_names)) < data.num_columns:
        raise StoreError(
            f"Rows for table {table.name} do not fit: unknown columns {unknown}, missing columns {missing}. "
            f"Its columns are: {', '.join(names)}."
        )
    arrays = []
    for column in table.columns:
        fixed = key.get(column.name)
        if column.name in data.column_names:
            array = _cast(table, column, data.column(column.name))
            if fixed is not None and len(array) and pc.unique(array).to_pylist() != [fixed]:
                raise _refused(table, column, f"must be {fixed!r} in every row, as the file's place says")
        else:
            array = pa.repeat(pa.scalar(fixed, column.type), data.num_rows)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=table.schema)


def write_parquet(path: Path, rows: pa.Table, metadata: Mapping[str, str] | None = None) -> None:
    """Write rows of one table to a Parquet file: the same rows give the same bytes (with the same pyarrow).

    Lists: BYTE_STREAM_SPLIT without dictionary or statistics; all zstd level 1; pages carry checksums, files without
    lists a seal (`is_sealed`). Narrow rows lie in large row groups: over 1,230 index files of 8,192 rows a group-by
    takes 0.3 s, with groups of 256 rows it took 1.6 s.
    """
    schema = rows.schema.with_metadata(dict(metadata) if metadata else None)
    lists = [f.name for f in schema if pa.types.is_list(f.type)]
    texts = {"prompt", "completion", "question", "answer"}
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[f.name for f in schema if pa.types.is_string(f.type) and f.name not in texts],
        column_encoding={f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in lists},
        write_statistics=[f.name for f in schema if f.name not in lists and f.name not in texts],
        write_page_checksum=True,
    ) as writer:
        # combine_chunks: how a caller's table happens to be chunked must not show in the pages.
        rows = rows.replace_schema_metadata(schema.metadata).combine_chunks()
        writer.write_table(rows, ROW_GROUP if lists else NARROW_ROW_GROUP)
        if not lists:
            writer.add_key_value_metadata({_SEAL: _UNSEALED.decode()})
    if not lists:
        _seal(path)


def parse_parquet(data: bytes, where: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a Parquet file's bytes, page checksums and the file's seal verified. Raises CorruptFile.

    `where` names the file in messages.
    """
    try:
        if is_sealed(data) is False:
            raise EOFError("its SHA-256 is not the one that it carries")
        # ParquetFile, not read_table: the latter would add the directories' partition columns of its own type.
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
            return file.read(columns)
    except (pa.ArrowException, OSError, EOFError) as error:
        raise CorruptFile(
            f"{where} cannot be read ({error}). Put a good copy back; docs/resume.md tells what can be done "
            "without one."
        ) from error


def is_sealed(data: bytes) -> bool | None:
    """Whether a file's bytes are those that were sealed when it was written; None when they carry no seal.

    Page checksums cover the pages alone, the seal the footer too. Shards carry none: their index has their SHA-256.
    """
    place = data.rfind(_SEAL_HEAD) + len(_SEAL_HEAD)
    if place < len(_SEAL_HEAD):
        return None
    unsealed = hashlib.sha256(data[:place] + _UNSEALED + data[place + 64 :])
    return unsealed.hexdigest().encode() == data[place : place + 64]


def _seal(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(data.rindex(_SEAL_HEAD) + len(_SEAL_HEAD))
        file.write(hashlib.sha256(data).hexdigest().encode())


def _from_dicts(table: Table, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    known = {column.name: column.type for column in table.columns}
    names = list(rows[0]) if rows else list(known)
    if ragged := next((i for i, row in enumerate(rows) if set(row) != set(names)), None):
        raise StoreError(
            f"Rows for table {table.name} do not fit: row {ragged} has columns {sorted(rows[ragged])}, "
            f"row 0 has {sorted(names)}. Give every row the same columns, with None for null."
        )
    arrays = {}
    for name in names:
        values = [row[name] for row in rows]
        try:
            arrays[name] = pa.array(values, known.get(name))
        except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
            raise StoreError(f"Column {name} of table {table.name} must be {known.get(name)}: {error}") from error
    return pa.table(arrays)


def _cast(table: Table, column: Column, values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    if values.null_count and not column.nullable:
        raise _refused(table, column, f"may not be null, and {values.null_count} values are")
    if not _kind(values.type) <= _kind(column.type) | {"null"}:
        raise _refused(table, column, f"must be {column.type}, not {values.type}")
    try:
        array = _cast_list(column, values) if column.is_list else values.cast(column.type)
    except (pa.ArrowException, TypeError) as error:
        raise _refused(table, column, f"must be {column.type}, not {values.type} ({error})") from error
    if array is None:
        raise _refused(table, column, "may not hold null elements")
    if column.finite and not _all_finite(array, column):
        raise _refused(table, column, "may hold neither NaN nor infinity")
    if column.values and (wrong := sorted(set(pc.unique(array).to_pylist()) - set(column.values))):
        raise _refused(table, column, f"must be one of {', '.join(column.values)}, not {', '.join(wrong)}")
    return array


def _cast_list(column: Column, values: pa.ChunkedArray) -> pa.Array | None:
    """Lists with the column's own element type; None when an element is null (Arrow has no cast to non-null)."""
    lists = values.combine_chunks()
    elements = lists.flatten()
    if elements.null_count:
        return None
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths.cast(pa.int64()))])
    return pa.ListArray.from_arrays(offsets.cast(pa.int32()), elements.cast(column.type.value_type), type=column.type)


def _kind(dtype: pa.DataType) -> set[str]:
    """What values a type can stand for: Arrow's own cast would read the text "3" as a number."""
    types = pa.types
    if types.is_dictionary(dtype):
        return _kind(dtype.value_type)
    if types.is_list(dtype) or types.is_large_list(dtype):
        return {f"list of {kind}" for kind in _kind(dtype.value_type)}
    if types.is_floating(dtype):
        return {"float"}
    if types.is_integer(dtype):
        return {"int"}
    if types.is_string(dtype) or types.is_large_string(dtype):
        return {"text"}
    return {str(dtype)}


def _all_finite(array: pa.ChunkedArray | pa.Array, column: Column) -> bool:
    flat = array.flatten() if column.is_list else array
    return pc.all(pc.is_finite(flat), min_count=0).as_py() is not False


def _refused(table: Table, column: Column, why: str) -> StoreError:
    return StoreError(f"Column {column.name} of table {table.name} ({column.description}) {why}.")
