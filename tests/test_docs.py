"""The documents say what is true: their queries run, and what they name exists."""

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from flows.cli import app
from srpo_core.config import Settings
from srpo_core.settings_reference import sections_of, settings_reference
from storage.history import RunHistory
from storage.readonly import open_readonly
from storage.tables import TABLES

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("srpo_core", "storage", "flows", "tests", "configs", "docs", ".ci")

# A query, and the head of the printed answer that follows it, if one does.
QUERY = re.compile(r"```sql\n(?P<query>.*?)```(?:\n\n```text\n┏[^\n]*\n┃(?P<head>[^\n]*)┃\n)?", re.DOTALL)
QUERIES = [
    pytest.param(match["query"], match["head"], id=f"{name}-{number}")
    for name, text in TEXTS.items()
    for number, match in enumerate(QUERY.finditer(text), start=1)
]


def samples() -> Any:
    """tests/storage/history_samples.py, which is on the path of its own folder's tests alone."""
    path = ROOT / "tests/storage/history_samples.py"
    spec = importlib.util.spec_from_file_location("history_samples_of_docs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> RunHistory:
    """A small run with rows in every table."""
    history = RunHistory(tmp_path_factory.mktemp("docs") / "store" / "r1", "r1")
    history.create()
    samples().fill(history)
    for table in TABLES:
        assert history.sql(f"SELECT count(*) AS n FROM {table}")["n"][0].as_py() > 0
    return history


def code_of(text: str) -> list[str]:
    """Every piece of code in a document: spans between backticks, and lines of fenced or indented blocks."""
    fenced = re.findall(r"```(?:\w*)\n(.*?)```", text, re.DOTALL)
    rest = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line for line in rest.splitlines() if line.startswith("    ")]
    return lines + re.findall(r"`([^`\n]+)`", rest)


def settings_paths(section: type[BaseModel] = Settings, prefix: str = "") -> set[str]:
    """Dotted names of all sections and fields."""
    paths: set[str] = set()
    for name, field in section.model_fields.items():
        paths.add(prefix + name)
        for inner in sections_of(field).values():
            paths |= settings_paths(inner, f"{prefix}{name}.")
    return paths


@pytest.mark.parametrize(("query", "head"), QUERIES)
def test_every_query_runs_and_its_printed_answer_has_its_columns(
    history: RunHistory, query: str, head: str | None
) -> None:
    with open_readonly(history.directory) as readonly:
        answer = readonly.query(query)
    assert head is not None, "no answer is printed below the query, or it is no table"
    assert [name.strip() for name in head.split("┃")] == answer.column_names


def test_the_documents_have_the_queries_that_they_promise() -> None:
    assert len(list(QUERY.finditer(TEXTS["README.md"]))) == 3
    cookbook = TEXTS["docs/history.md"].partition("## Cookbook")[2].partition("\n## ")[0]
    questions = re.split(r"^### ", cookbook, flags=re.MULTILINE)[1:]
    assert len(questions) >= 15
    assert [question.partition("\n")[0] for question in questions if not QUERY.search(question)] == []
    assert not re.findall(r"^0 rows$", "".join(TEXTS.values()), re.MULTILINE)


def test_the_history_document_lists_every_table_view_and_macro_as_the_catalog_does(history: RunHistory) -> None:
    with open_readonly(history.directory) as store:
        views = store.query("SELECT view_name AS name, comment FROM duckdb_views() WHERE NOT internal").to_pylist()
        macros = store.query(
            "SELECT function_name AS name, comment FROM duckdb_functions() WHERE NOT internal"
        ).to_pylist()
    catalog = {row["name"]: row["comment"] for row in views + macros}
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXTS["docs/history.md"], re.MULTILINE))
    assert listed == catalog


def test_the_settings_document_is_what_the_command_prints() -> None:
    assert TEXTS["docs/settings.md"] == settings_reference()


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_file(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if not target.startswith("https://"):
            assert (ROOT / name).parent.joinpath(target.partition("#")[0]).is_file(), target


@pytest.mark.parametrize("name", TEXTS)
def test_every_file_of_the_tree_that_is_named_exists(name: str) -> None:
    named = {path for code in code_of(TEXTS[name]) for path in re.findall(r"(?<![\w/.])[\w.]+/[\w./-]+", code)}
    own = {path for path in named if path.startswith(tuple(f"{package}/" for package in PACKAGES))}
    placeholders = {"storage/sql/selectors/NAME.sql"}
    assert {path for path in own - placeholders if not (ROOT / path).exists()} == set()


@pytest.mark.parametrize("name", TEXTS)
def test_every_command_and_option_that_is_named_exists(name: str) -> None:
    group = typer.main.get_command(app)
    commands: dict[str, Any] = group.commands  # type: ignore[attr-defined]
    for code in code_of(TEXTS[name]):
        for command, rest in re.findall(r"(?<![\w/-])srpo ([a-z]+)\b([^`|;]*)", code):
            assert command in commands, code
            meant = commands[command]
            if hasattr(meant, "commands") and (word := re.match(r" ([a-z]+)", rest)):
                assert word[1] in meant.commands, code
                meant = meant.commands[word[1]]
            known = {option for parameter in meant.params for option in parameter.opts} | {"--help"}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest.partition("#")[0])) <= known, code


@pytest.mark.parametrize("name", TEXTS)
def test_every_make_target_that_is_named_exists(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in code_of(TEXTS[name]):
        if line := re.match(r"\s*make ((?:[a-z-]+ ?)+)", code.partition("#")[0]):
            assert set(line[1].split()) <= targets, code


def test_the_readme_shows_every_command() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert commands <= set(re.findall(r"^    srpo ([a-z]+)", TEXTS["README.md"], re.MULTILINE))


@pytest.mark.parametrize("name", TEXTS)
def test_every_setting_that_is_named_exists(name: str) -> None:
    known = settings_paths()
    sections = "|".join(path for path in known if any(other.startswith(f"{path}.") for other in known))
    for code in code_of(TEXTS[name]):
        named = re.findall(rf"(?<![\w/.])(?:{sections})\.[a-z_.0-9]+[a-z0-9_]", code)
        assert {path for path in named if not path.endswith((".py", ".yaml", ".png", ".sql", ".duckdb"))} <= known, code


def test_every_dependency_is_told_with_its_range() -> None:
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    wanted = PROJECT["dependencies"] + [each for each in extras if not each.startswith("srpo[")]
    told = re.findall(r"^\| ([\w\[\]-]+) \| `([^`]+)` \| \S.* \|$", TEXTS["docs/dependencies.md"], re.MULTILINE)
    assert ["".join(row) for row in told] == wanted


def test_the_makefile_installs_torch_in_the_range_of_the_project() -> None:
    (torch,) = [dependency for dependency in PROJECT["dependencies"] if dependency.startswith("torch")]
    assert f'"{torch}"' in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("path", [*DOCUMENTS, ROOT / "Makefile", ROOT / ".ci/run"], ids=lambda path: path.name)
def test_no_path_of_a_developers_machine_is_told(path: Path) -> None:
    assert re.findall(r"(?<![\w.:/])/(?:work|tmp|root|home|Users)\b\S*", path.read_text()) == []
