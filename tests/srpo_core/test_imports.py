"""The house's rule: the algorithm and the history know neither each other nor the flows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "srpo_core": {"storage", "flows", "prefect", "duckdb", "pyarrow"},
    "storage": {"srpo_core", "flows", "prefect", "torch", "transformers"},
    "flows": set[str](),
}
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocker())
package = importlib.import_module({package!r})
names = [module.name for module in pkgutil.walk_packages(package.__path__, {package!r} + ".")]
for name in names:
    importlib.import_module(name)
assert not {blocked!r} & set(sys.modules)
print(*sorted(names))
"""


def modules_of(package: str) -> list[str]:
    files = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / package).rglob("*.py"))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return sorted(name for name in names if name != package)


def imported_packages(source: str) -> set[str]:
    """The top-level packages that a file imports anywhere, also within functions and by name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"import_module", "importlib.import_module"}:
            found |= {str(a.value).partition(".")[0] for a in node.args if isinstance(a, ast.Constant)}
    return found


@pytest.mark.parametrize("package", ["srpo_core", "storage"])
def test_every_module_imports_where_what_it_must_not_need_is_absent(package: str) -> None:
    script = IMPORT_EVERYTHING.format(blocked=FORBIDDEN[package], package=package)
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == modules_of(package)


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_file_imports_what_its_package_must_not_know(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not imported_packages(file.read_text()) & FORBIDDEN[package], file


@pytest.mark.parametrize(
    "source",
    ["import storage.files", "def f():\n    from storage import files", "import a, storage as s",
     "import importlib\nimportlib.import_module('storage.files')"],
)  # fmt: skip
def test_the_walk_sees_every_form_of_import(source: str) -> None:
    assert "storage" in imported_packages(source)
