"""A user's own rule: what is refused, with which words, and what it may do."""

from pathlib import Path

import pytest
from selector_reference import SETTINGS, Past

from storage.selectors import Rule, SelectorError, decide, load_rule, try_rule, used_parameters

BECAUSE = "'because'"
ANSWER = f"'mixed' AS bucket, {BECAUSE} AS reason, 0 AS graded, 0 AS correct, NULL AS pass_rate"
PARAMETERS = SETTINGS | {"seed": 7, "prompts_per_step": 4}


def tried(text: str) -> None:
    try_rule(Rule("mine", text), PARAMETERS)


def test_a_sound_rule_is_accepted_comments_and_all() -> None:
    tried(f"-- mine; all mine\nSELECT prompt_id, true AS keep, {ANSWER} FROM candidates ORDER BY 1;\n")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SELEC 1", "mine cannot be parsed"),
        ("", "0 statements"),
        ("SELECT 1; SELECT 2", "2 statements"),
        ("CREATE TABLE t AS SELECT 1", "CREATE"),
        ("DROP VIEW visits", "DROP"),
        ("WITH x AS (COPY candidates TO 'out.csv') SELECT * FROM x", "COPY"),
        (f"SELECT prompt_id, true AS keep, {ANSWER} FROM read_csv('/etc/passwd')", "mine"),
        (f"SELECT prompt_id, true AS keep, {ANSWER} FROM query('FROM candidates')", "known only to read"),
        (f"SELECT prompt_id, true AS keep, {ANSWER} FROM rolouts", "rolouts"),
        (f"SELECT prompt_id, $luck > 0 AS keep, {ANSWER} FROM candidates", r"asks for \$luck.*\$decay"),
        (f"SELECT prompt_id, {ANSWER} FROM candidates", "must give .*keep .*or weight"),
        ("SELECT prompt_id, true AS keep FROM candidates", "must give .*pass_rate"),
        (f"SELECT prompt_id, true AS keep, 1 AS wieght, {ANSWER} FROM candidates", "wieght.*and no other"),
        (f"SELECT prompt_id, 'perhaps' AS keep, {ANSWER} FROM candidates", "column keep must be bool"),
        (f"SELECT prompt_id, true AS keep, {ANSWER} FROM candidates LIMIT 3", "no row for these candidates: easy-3"),
        (f"SELECT prompt_id, true AS keep, {ANSWER} FROM candidates, range(2)", "more than one row: easy-0, easy-1"),
        (f"SELECT prompt_id || 'x' AS prompt_id, true AS keep, {ANSWER} FROM candidates", "no candidates: easy-0x"),
        (f"SELECT prompt_id, NULL AS keep, {ANSWER} FROM candidates", "neither keep nor weight"),
        (f"SELECT prompt_id, 1.5 AS weight, {ANSWER} FROM candidates", "weight that is not from 0 to 1"),
        (f"SELECT prompt_id, 'NaN'::DOUBLE AS weight, {ANSWER} FROM candidates", "weight that is not from 0 to 1"),
        (f"SELECT prompt_id, false AS keep, {ANSWER} FROM candidates", "keeps no prompt of a trial history"),
        (f"SELECT prompt_id, 0 AS weight, {ANSWER} FROM candidates", "keeps no prompt of a trial history"),
        (f"SELECT prompt_id, true AS keep, {ANSWER.replace('mixed', 'fine')} FROM candidates", "bucket that is"),
        (f"SELECT prompt_id, true AS keep, {ANSWER.replace(BECAUSE, 'NULL')} FROM candidates", "no reason"),
        (f"SELECT prompt_id, true AS keep, {ANSWER.replace('0 AS corr', '3 AS corr')} FROM candidates", "counts that"),
        (f"SELECT prompt_id, error('no') AS keep, {ANSWER} FROM candidates", "mine: The query failed"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_decide_is_refused_in_words(text: str, told: str) -> None:
    with pytest.raises(SelectorError, match=f"(?s)mine.*{told}" if not told.startswith("mine") else told):
        tried(text)


def test_a_rule_that_drops_everything_only_later_is_refused_too() -> None:
    with pytest.raises(SelectorError, match="keeps no prompt"):
        tried(f"SELECT prompt_id, $epoch = 0 AS keep, {ANSWER} FROM candidates")


def test_a_rule_may_read_every_table_and_parameter() -> None:
    names = ", ".join(f"${name}" for name in [*PARAMETERS, "stage", "epoch"])
    tables = " ".join(
        f", (SELECT count(*) FROM {name})" for name in ("visits", "epoch_visits", "standing", "epoch_rollouts")
    )
    text = f"SELECT prompt_id, [{names}] IS NOT NULL AND row(1 {tables}) IS NOT NULL AS keep, {ANSWER} FROM Candidates"
    tried(text)
    assert used_parameters(Rule("mine", text)) == {*PARAMETERS, "stage", "epoch"}


def test_a_rule_that_empties_an_epoch_at_run_time_falls_back_to_the_floor_with_a_warning() -> None:
    shown = {f"p{i}": (8, i) for i in range(9)}
    past = Past([((1, 0), shown)], dict.fromkeys(shown, True), prompts_per_step=3)
    rule = Rule(
        "mine", "SELECT prompt_id, false AS keep, graded, correct, pass_rate, bucket, 'no' AS reason FROM standing"
    )
    rows = decide(rule, past.sources(), past.parameters).to_pylist()
    assert [row["prompt_id"] for row in rows if row["keep"]] == ["p0", "p1", "p2"]  # the least solved
    assert rows[0]["reason"] == (
        "warning, floor: 0 prompts would stay and a step needs 3; back as one of the least solved (no)"
    )


def test_a_copy_of_a_rule_decides_as_the_rule(tmp_path: Path) -> None:
    shown = {f"p{i}": (8, i) for i in range(9)}
    past = Past([((1, 0), shown)], dict.fromkeys(shown, True), prompts_per_step=20)
    for name in ("history", "pass_rate", "history_readmit"):
        copy = tmp_path / "mine.sql"
        copy.write_text(load_rule(name).text)
        mine = load_rule(str(copy))
        assert mine.name == f"mine.sql@{mine.sha256[:12]}"
        assert decide(mine, past.sources(), past.parameters).equals(
            decide(load_rule(name), past.sources(), past.parameters)
        )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary.sql").write_bytes(b"\xff\xfe")
    for name in ("missing.sql", "binary.sql"):
        with pytest.raises(SelectorError, match=f"{name} cannot be read"):
            load_rule(str(tmp_path / name))
