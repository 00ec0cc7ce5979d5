"""The public names are the ones on the page, with the signatures that stand there."""

import builtins
import inspect
import re
from pathlib import Path

import streamlab as sl
from streamlab import testing

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
SIGNATURE = re.compile(r"^([A-Za-z]+)\.([A-Za-z_]+)\((.*)\)$", re.MULTILINE)
HOMES = {
    "sl": sl, "Lab": sl.Lab, "Stream": sl.Stream, "Writer": sl.Writer, "Query": sl.Query,
    "Job": sl.Job, "Replay": sl.Replay, "Consumer": sl.Consumer, "Group": sl.Group,
    "Table": sl.Table, "testing": testing,
}  # fmt: skip
KINDS = [kind for kind in HOMES.values() if isinstance(kind, type)]


def written(thing):
    """Return a signature as the page writes it: names and defaults, no types, no self."""
    parts, star = [], False
    for p in inspect.signature(thing).parameters.values():
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not star:
            parts.append("*")
        star |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        name = {p.VAR_KEYWORD: "**", p.VAR_POSITIONAL: "*"}.get(p.kind, "") + p.name
        parts.append(name if p.default is p.empty else f"{name}={p.default!r}".replace("'", '"'))
        if p.kind is p.POSITIONAL_ONLY:
            parts.append("/")
    return ", ".join(parts)


def test_all_is_what_is_public_and_sorted():
    """`__all__` has every public name, sorted, and nothing else."""
    assert sl.__all__ == sorted(sl.__all__, key=str.casefold)
    public = {n for n, v in vars(sl).items() if not n.startswith("_") and not inspect.ismodule(v)}
    hooks = {"load_ipython_extension", "unload_ipython_extension"}  # IPython looks for these
    assert public - {"annotations"} - hooks == set(sl.__all__)
    assert set(sl.__all__) <= set(dir(sl))


def test_every_public_name_stands_on_the_page():
    """docs/api.md speaks of each public name, method and property."""
    for name in sl.__all__:
        assert re.search(rf"\b{name}\b", PAGE), name
    for kind in KINDS:
        for name in vars(kind):
            if not name.startswith("_"):
                assert re.search(rf"\b{name}\b", PAGE), f"{kind.__name__}.{name}"
    for name in testing.__all__:
        assert f"testing.{name}(" in PAGE


def test_the_signatures_on_the_page_are_the_real_ones():
    """Names, order and defaults of every signature on the page are those of the code."""
    found = SIGNATURE.findall(PAGE)
    assert len(found) > 35
    for home, name, shown in found:
        real = written(getattr(HOMES[home], name))
        if "..." not in shown:
            assert shown == real, f"{home}.{name}({real})"
        else:
            assert shown.split("...")[0].split("=")[0].rstrip(", ") in real


def test_errors_are_one_tree_and_the_builtins_they_resemble():
    """Every error is a StreamlabError, and the builtin that the page names."""
    rows = re.findall(r"^\| `(\w+)`(?: \((\w+)\))? \|", PAGE, re.MULTILINE)
    errors = {
        n
        for n in sl.__all__
        if isinstance(getattr(sl, n), type) and issubclass(getattr(sl, n), Exception)
    }
    assert {name for name, _ in rows} == errors - {"StreamlabError"}
    for name, builtin in rows:
        assert issubclass(getattr(sl, name), sl.StreamlabError)
        if builtin:
            assert issubclass(getattr(sl, name), getattr(builtins, builtin)), name


def test_every_public_thing_is_described():
    """Each public name, method and property has a docstring."""
    for name in sl.__all__:
        assert inspect.getdoc(getattr(sl, name)), name
    for kind in KINDS:
        for name, value in vars(kind).items():
            if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{kind.__name__}.{name}"


def test_a_message_ends_with_its_hint():
    """The text of an error is its message and, where there is one, the hint on its own line."""
    error = sl.StreamNotFound("there is no stream", hint="make one")
    assert str(error) == "there is no stream\nHint: make one"
    assert error.hint == "make one"
