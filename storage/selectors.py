"""Selectors: rules in SQL that decide, from the committed history, which prompts the next epoch samples.

A rule is one query, storage/sql/selectors/NAME.sql or a user's own file. It sees these tables, each read only when the
rule names it, as of the end of the epoch just finished:

    candidates      every prompt of the stage: prompt_id, domain, difficulty; `sampled`, whether the epoch just finished
                    was to sample it, and the bucket, graded, correct and pass_rate of the decision about that
    epoch_visits    the table `visits` of that epoch alone (this stays cheap however long the run is)
    visits          the table `visits` of all epochs so far, stage 1's too, and `age`: how many epochs ago, from 0
    standing        one row per candidate: its last visit (selection.sql)
    epoch_rollouts  the epoch's committed rollouts, narrow columns

and named parameters ($stage, $epoch, $seed, $prompts_per_step, $group_size, every setting of `resampling`), and gives
one row per candidate with the columns of `_ANSWER`. What becomes of that answer, draws and the floor, is decide.sql.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.files import StoreError
from storage.history import RunHistory
from storage.queries import in_memory, literal, run_query
from storage.readonly import ReadOnlyStore
from storage.tables import BUCKETS, TABLES, conform

Sources = Mapping[str, Callable[[], pa.Table]]

_SQL = package_files("storage") / "sql"
_VISITS = """
    SELECT
        prompt_id,
        count(*) AS rollouts,
        count(accuracy) AS graded,
        count(*) FILTER (WHERE accuracy >= 1 - 1e-6) AS correct,
        -- Decimals add up to the same sum in any order, as doubles do not.
        sum(reward::DECIMAL(18, 6))::DOUBLE / nullif(count(reward), 0) AS mean_reward,
        sum(completion_tokens) / count(*) AS mean_tokens
    FROM epoch_rollouts
    GROUP BY prompt_id
    ORDER BY prompt_id
"""
# What a rule must give, and may: a prompt is kept by `keep` or, where that is not given, with probability `weight`.
_ANSWER = {
    "prompt_id": pa.string(),
    "keep": pa.bool_(),
    "weight": pa.float64(),
    "bucket": pa.string(),
    "reason": pa.string(),
    "graded": pa.int64(),
    "correct": pa.int64(),
    "pass_rate": pa.float64(),
    "for_ever": pa.bool_(),
}
_REQUIRED = ("prompt_id", "bucket", "reason", "graded", "correct", "pass_rate")


class SelectorError(StoreError):
    """A rule that cannot decide: the message says which rule, what is wrong with it, and what it must give."""


@dataclass(frozen=True)
class Rule:
    """A selector's rule: its name, as `decisions` tells it, and its SQL."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the text, hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load_rule(selector: str) -> Rule:
    """The rule of that name, or the rule in a file (`selector` ends in .sql), whose name tells its checksum.

    Raises SelectorError when there is none, or the file cannot be read.
    """
    if selector.endswith(".sql"):
        try:
            text = Path(selector).read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise SelectorError(f"The selector's file {selector} cannot be read: {error}") from error
        rule = Rule(selector, text)
        return Rule(f"{Path(selector).name}@{rule.sha256[:12]}", text)
    if selector not in (known := selector_names()):
        raise SelectorError(f"There is no selector {selector!r}: give one of {', '.join(known)}, or a file NAME.sql.")
    return Rule(selector, (_SQL / "selectors" / f"{selector}.sql").read_text(encoding="utf-8"))


def selector_names() -> list[str]:
    """The selectors that come with the package."""
    found = [entry.name for entry in (_SQL / "selectors").iterdir()]
    return sorted(name.removesuffix(".sql") for name in found if name.endswith(".sql"))


def record_visits(history: RunHistory, *, stage: int, epoch: int) -> bool:
    """Publish what each prompt showed in a finished epoch; False when it was published before.

    Reads that epoch's index files alone. Later selectors read this small table instead of every index file again.
    Raises StoreError.
    """
    if history.has("visits", stage=stage, epoch=epoch):
        return False
    return history.publish("visits", epoch_visits(history, stage=stage, epoch=epoch), stage=stage, epoch=epoch)


def epoch_visits(history: RunHistory, *, stage: int, epoch: int) -> pa.Table:
    """What each prompt showed in an epoch, from its index files. Raises StoreError."""
    return history.query_epoch(_VISITS, stage=stage, epoch=epoch)


def last_visits(history: RunHistory) -> dict[str, tuple[int, int, int]]:
    """By prompt: in how many epochs it was visited, and the stage and epoch of the last one."""
    visits = history.read("visits")  # in order of stage and epoch
    by_prompt = visits.group_by("prompt_id", use_threads=False).aggregate(
        [("epoch", "count"), ("stage", "last"), ("epoch", "last")]
    )
    columns = [by_prompt[name].to_pylist() for name in ("epoch_count", "stage_last", "epoch_last")]
    return dict(zip(by_prompt["prompt_id"].to_pylist(), zip(*columns, strict=True), strict=True))


def select(history: RunHistory, rule: Rule, parameters: Mapping[str, Any], *, stage: int, epoch: int) -> pa.Table:
    """What the rule decides about every candidate after an epoch whose visits are recorded.

    `parameters` must hold seed and prompts_per_step, and whatever else the rule names. Columns: prompt_id, keep,
    bucket, reason, graded, correct, pass_rate, weight, brought_back (by the floor). Raises StoreError, SelectorError.
    """
    if not history.has("decisions", stage=stage, epoch=epoch):
        raise StoreError(f"Stage {stage}, epoch {epoch} has no decisions: publish its prompt set before selecting.")
    if not history.has("visits", stage=stage, epoch=epoch):
        raise StoreError(f"Stage {stage}, epoch {epoch} has no visits: it is not finished, so nothing can be selected.")
    key: dict[str, Any] = {"stage": stage, "epoch": epoch}
    sources = {
        "candidates": lambda: history.read("decisions", **key, name="rows"),
        "epoch_visits": lambda: history.read("visits", **key, name="rows"),
        "visits": lambda: history.read("visits"),
        "epoch_rollouts": lambda: history.query_epoch("FROM epoch_rollouts", **key),
    }
    return decide(rule, sources, {**parameters, **key})


def decide(rule: Rule, sources: Sources, parameters: Mapping[str, Any]) -> pa.Table:
    """As `select`, over tables from anywhere; `candidates` and `visits` as the history holds them.

    Nothing but these tables is within the rule's reach. Raises SelectorError.
    """
    with _sealed() as connection:
        given = _given(connection, rule, parameters)
        _register(connection, rule, sources, parameters)
        try:
            answer = ReadOnlyStore(connection).query(rule.text, given)
        except StoreError as error:
            raise SelectorError(f"Selector {rule.name}: {error}") from error
        connection.register("answered", _conform(rule, answer))
        _check(connection, rule)
        wanted = {name: parameters[name] for name in ("seed", "prompts_per_step")}
        return run_query(connection, (_SQL / "decide.sql").read_text(encoding="utf-8"), wanted)


def used_parameters(rule: Rule) -> set[str]:
    """The names of the parameters that the rule uses. Raises SelectorError when it cannot be parsed."""
    with in_memory() as connection:
        return _used(connection, rule)


def try_rule(rule: Rule, parameters: Mapping[str, Any]) -> None:
    """Run the rule on two small made-up histories, so that a run does not begin with a rule that cannot decide.

    Raises SelectorError for a rule that cannot be parsed, writes, fails, answers amiss, or keeps nothing.
    """
    for epoch in (0, 2):
        decided = decide(rule, _made_up(epoch), {**parameters, "stage": 1, "epoch": epoch}).to_pylist()
        if not any((row["keep"] and not row["brought_back"]) or (row["weight"] or 0) > 0 for row in decided):
            raise SelectorError(
                f"Selector {rule.name} keeps no prompt of a trial history, in which some are solved always, some "
                "sometimes, some never, and some were not graded or not visited: such a rule would end every run."
            )


def _sealed() -> duckdb.DuckDBPyConnection:
    """A connection with the selectors' macros that reaches no file."""
    connection = in_memory()
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return connection


def _made_up(epoch: int) -> Sources:
    """A history of four prompts of each kind, in which the solved ones were sampled in the first epoch alone."""
    shown: dict[str, list[tuple[int, int] | None]] = {
        "easy": [(8, 8), None, None], "mixed": [(8, 0), (8, 3), (8, 5)], "hard": [(8, 0)] * 3,
        "ungraded": [(0, 0)] * 3, "unvisited": [None] * 3,
    }  # fmt: skip
    prompts = [(f"{kind}-{i}", kind) for kind in shown for i in range(4)]
    visits, decisions = TABLES["visits"].empty(), []
    for past in range(epoch + 1):
        rows = []
        for prompt, kind in prompts:
            if (found := shown[kind][past]) is not None:
                counts = {"rollouts": 8, "graded": found[0], "correct": found[1], "mean_tokens": 32.0}
                rows.append({"prompt_id": prompt, **counts, "mean_reward": None})
        key: dict[str, str | int] = {"run": "trial", "stage": 1, "epoch": past}
        visits = pa.concat_tables([visits, conform(TABLES["visits"], rows, key)])
    for prompt, kind in prompts:
        out = epoch > 0 and kind == "easy"
        figures = {"graded": 8, "correct": 8, "bucket": "easy"} if out else {"graded": 0, "correct": 0, "bucket": "new"}
        nulls = dict.fromkeys(("pass_rate", "step", "position", "weight", "last_stage", "last_epoch"))
        told = {"keep": not out, "reason": "made up", "selector": "trial", "visits": epoch, **figures, **nulls}
        decisions.append({"prompt_id": prompt, "domain": "math", "difficulty": 1, **told})
    candidates = conform(TABLES["decisions"], decisions, {"run": "trial", "stage": 1, "epoch": epoch})
    return {
        "candidates": lambda: candidates,
        "visits": lambda: visits,
        "epoch_visits": lambda: visits.filter(pc.field("epoch") == epoch),
        "epoch_rollouts": TABLES["rollouts"].empty,
    }


def _used(connection: duckdb.DuckDBPyConnection, rule: Rule) -> set[str]:
    try:
        return {name for statement in connection.extract_statements(rule.text) for name in statement.named_parameters}
    except duckdb.Error as error:
        raise SelectorError(f"Selector {rule.name} cannot be parsed: {error}") from error


def _given(connection: duckdb.DuckDBPyConnection, rule: Rule, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the rule uses: DuckDB refuses others."""
    used = _used(connection, rule)
    if unknown := sorted(used - set(parameters)):
        there = ", ".join(f"${name}" for name in sorted(parameters))
        raise SelectorError(f"Selector {rule.name} asks for ${unknown[0]}, which there is not: there are {there}.")
    return {name: parameters[name] for name in used}


def _register(
    connection: duckdb.DuckDBPyConnection, rule: Rule, sources: Sources, parameters: Mapping[str, Any]
) -> None:
    """Make the tables that the rule names, and `candidates`, which the checks need."""
    named = _tables(connection, rule)
    connection.register("decided_before", sources["candidates"]())
    connection.execute("CREATE VIEW candidates AS SELECT * EXCLUDE (keep), keep AS sampled FROM decided_before")
    needs_past = named & {"visits", "standing"}
    connection.register("all_visits", sources["visits"]() if needs_past else TABLES["visits"].empty())
    stage, epoch = int(parameters["stage"]), int(parameters["epoch"])
    connection.execute(f"""
        CREATE VIEW visits AS
        SELECT v.*, e.age
        FROM all_visits AS v
        JOIN (
            SELECT stage, epoch, row_number() OVER (ORDER BY stage DESC, epoch DESC) - 1 AS age
            FROM (SELECT stage, epoch FROM all_visits UNION SELECT {stage}, {epoch})
            WHERE (stage, epoch) <= ({stage}, {epoch})
        ) AS e USING (stage, epoch)
    """)
    connection.execute((_SQL / "selection.sql").read_text(encoding="utf-8"))
    for name in named & {"epoch_visits", "epoch_rollouts"}:
        connection.register(name, sources[name]())


def _tables(connection: duckdb.DuckDBPyConnection, rule: Rule) -> set[str]:
    """The names of the tables that the rule reads, in small letters; of the nodes of its parse tree."""
    tree = run_query(connection, "SELECT json_serialize_sql(?::VARCHAR) AS tree", [rule.text])["tree"][0].as_py()
    named: set[str] = set()

    def collect(node: dict[str, Any]) -> None:
        named.update({str(node["table_name"]).lower()} if "table_name" in node else ())

    json.loads(tree, object_hook=collect)
    return named


def _conform(rule: Rule, answer: pa.Table) -> pa.Table:
    """The rule's answer with the columns of `_ANSWER`, null where it gave none."""
    names = answer.column_names
    missing = [name for name in _REQUIRED if name not in names]
    unknown = [name for name in names if name not in _ANSWER]
    if missing or unknown or len(set(names)) < len(names) or not {"keep", "weight"} & set(names):
        raise SelectorError(
            f"Selector {rule.name} gives the columns {', '.join(names)}. It must give {', '.join(_REQUIRED)}, and keep "
            "(boolean) or weight (the probability of keeping, 0 to 1); it may give for_ever (boolean), and no other."
        )
    columns = []
    for name, dtype in _ANSWER.items():
        try:
            columns.append(answer[name].cast(dtype) if name in names else pa.nulls(answer.num_rows, dtype))
        except pa.ArrowException as error:
            raise SelectorError(f"Selector {rule.name}: column {name} must be {dtype}: {error}") from error
    return pa.table(columns, names=list(_ANSWER))


def _check(connection: duckdb.DuckDBPyConnection, rule: Rule) -> None:
    """Refuse an answer that is not one sound row for every candidate. Raises SelectorError."""
    buckets = ", ".join(literal(bucket) for bucket in BUCKETS)
    wrong = {
        "gives these prompts more than one row": "FROM answered GROUP BY prompt_id HAVING count(*) > 1",
        "gives prompts that are no candidates": "FROM answered ANTI JOIN candidates USING (prompt_id)",
        "gives no row for these candidates": "FROM candidates ANTI JOIN answered USING (prompt_id)",
        "gives neither keep nor weight": "FROM answered WHERE keep IS NULL AND weight IS NULL",
        "gives a weight that is not from 0 to 1": "FROM answered WHERE NOT coalesce(weight, 0) BETWEEN 0 AND 1",
        f"gives a bucket that is none of {', '.join(BUCKETS)}":
            f"FROM answered WHERE bucket IS NULL OR bucket NOT IN ({buckets})",
        "gives no reason": "FROM answered WHERE reason IS NULL",
        "gives counts that cannot be (0 <= correct <= graded)":
            "FROM answered WHERE coalesce(NOT (correct BETWEEN 0 AND graded), true)",
        "gives a pass rate that is not from 0 to 1, or null":
            "FROM answered WHERE NOT coalesce(pass_rate, 0) BETWEEN 0 AND 1",
    }  # fmt: skip
    query = " UNION ALL ".join(
        f"(SELECT {literal(what)} AS what, prompt_id {where} ORDER BY prompt_id LIMIT 3)"
        for what, where in wrong.items()
    )
    if found := run_query(connection, query).to_pylist():
        told = ", ".join(str(row["prompt_id"]) for row in found if row["what"] == found[0]["what"])
        raise SelectorError(f"Selector {rule.name} {found[0]['what']}: {told}.")
