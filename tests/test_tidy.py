"""Style is a unit test: layers, sizes, names, docstrings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "streamlab"
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "datasets" not in p.parts)
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))

# From the top: a module may import from its own line only what stands before it there, and
# anything from the lines below.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["cli_time"],
    ["cli_io", "cli_parser"],
    ["cli_text"],
    ["demo"],
    ["demo_past"],
    ["demo_stage"],
    ["report"],
    ["notebook", "connectors"],
    ["testing", "rescue"],
    [
        "verify",
        "replay",
        "feed",
        "lab",
        "stream",
        "jobs",
        "mirror",
        "job",
        "sinks",
        "forking",
        "archive",
    ],
    ["played", "breakpoint", "unpacking"],
    ["query"],
    ["joined"],
    ["steps", "compared"],
    ["lineage", "lateness"],
    ["engines"],
    ["plan"],
    ["table"],
    ["groups"],
    ["consumer"],
    ["fold"],
    ["changes"],
    ["ducktable"],
    ["duckfile", "ducktypes"],
    ["duck", "lazy", "files"],
    ["filetext", "dataset"],
    ["views"],
    ["timetable", "backlog"],
    ["follow", "ingest", "writer", "prune", "scan"],
    ["catalog", "log"],
    ["partition", "conform", "schema", "settings"],
    ["window", "aggregate", "shown", "fingerprint", "habits"],
    ["progress", "behind", "clock", "duration", "errors", "palette"],
]
INSIDE_LOG = [
    ["fork"],
    ["log"],
    ["writer", "reader", "maintain"],
    ["compact"],
    ["repair"],
    ["recovery", "bulk"],
    ["segment", "manifest", "head", "pins", "groups", "snapshots"],
    ["format", "lock", "background", "interrupts"],
    ["disk"],
]
GUESTS = {
    "cli", "cli_io", "cli_parser", "cli_text", "cli_time", "demo", "demo_past", "demo_stage",
    "palette", "report", "__main__",
}  # fmt: skip
BANNED = {"utils.py", "helpers.py", "core.py", "base.py", "common.py", "types.py", "manager.py"}


def imports_of(path):
    """Yield the streamlab modules that a file imports, those for type checking only left out."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "streamlab":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module in ("streamlab", "streamlab.log") else [node.module]
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "streamlab")


def rank(name, layers):
    found = [i for i, layer in enumerate(layers) if name in layer]
    assert found, f"{name} has no place in the layers"
    return found[0]


def layer_breaches(path, layers, prefix):
    own = path.relative_to(PACKAGE).parts
    name = own[1] if prefix == "streamlab.log." else own[0]
    for target in imports_of(path):
        if not target.startswith(prefix):
            continue
        other = target[len(prefix) :].split(".")[0]
        if not (PACKAGE / "log" / f"{other}.py").exists() and prefix == "streamlab.log.":
            continue
        if prefix == "streamlab." and not (
            (PACKAGE / f"{other}.py").exists() or (PACKAGE / other).is_dir()
        ):
            continue
        here, there = rank(name.removesuffix(".py"), layers), rank(other, layers)
        if there < here:
            yield f"{path.relative_to(ROOT)} imports {target}, which lies above it"


def test_imports_go_down_only():
    """No module imports from a layer above its own."""
    paths = [p for p in MODULES if p.name != "__init__.py"]
    outside = [p for p in paths if "log" not in p.relative_to(PACKAGE).parts[:-1]]
    inside = [p for p in paths if "log" in p.relative_to(PACKAGE).parts[:-1]]
    breaches = [b for p in outside for b in layer_breaches(p, LAYERS, "streamlab.")]
    breaches += [b for p in inside for b in layer_breaches(p, INSIDE_LOG, "streamlab.log.")]
    assert not breaches, "\n".join(breaches)


def test_guests_use_the_public_names_only():
    """The command line, the demo and connectors import nothing but `streamlab` and each other."""
    allowed = {f"streamlab.{guest}" for guest in GUESTS}
    for path in MODULES:
        place = path.relative_to(PACKAGE).parts
        if place[0].removesuffix(".py") in GUESTS or place[0] in ("connectors", "notebook"):
            for target in imports_of(path):
                inner = ".".join(target.split(".")[:2])
                is_module = (PACKAGE / f"{inner.split('.')[-1]}.py").exists() and inner != target[
                    :9
                ]
                public = inner == "streamlab" or inner in allowed or not is_module
                assert public or "connectors" in target, f"{path.name} imports {target}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_fit(path):
    """A file has at most 700 lines, a function fewer than 70, a line at most 100 columns of code."""
    text = path.read_text()
    assert len(text.splitlines()) <= 700, path
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 70, f"{path.name}: {node.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_is_public_is_described(path):
    """Every module, public class and public function says what it is."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), path
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno < 5:
                continue
            assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_no_file_is_a_drawer_for_odds_and_ends():
    """No module is named after being useful."""
    assert not [path for path in MODULES if path.name in BANNED]


@pytest.mark.parametrize("path", TESTS, ids=lambda p: p.name)
def test_every_test_states_its_property(path):
    """Each test has a docstring, and it is a sentence."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            text = ast.get_docstring(node) or ""
            assert text.split("\n")[0].endswith("."), f"{path.name}: {node.name}"


def test_pages_have_one_title():
    """Each page of the documentation has one first-level heading."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "datasets" / "README.md"]
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        assert len(re.findall(r"^# ", text, flags=re.MULTILINE)) == 1, page


def test_the_oracle_knows_nothing_of_streamlab():
    """What the tests compare with shares no code with what they test."""
    for path in (ROOT / "tests").glob("*oracle*.py"):
        assert "streamlab" not in path.read_text(), path
