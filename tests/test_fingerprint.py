"""Fingerprints: functions are known by what they do, in every process, wherever they stand."""

import functools
import os
import pickle
import subprocess
import sys
import threading
import types
from pathlib import Path

import polars as pl
import pytest

import streamlab as sl
from streamlab.fingerprint import _of_library, digest, digest_of_expression
from streamlab.testing import temp_lab

pytestmark = pytest.mark.filterwarnings("ignore::polars.exceptions.PolarsInefficientMapWarning")

CELL = """
import functools
import polars as pl
import numpy as np

FACTOR = 3
PRICES = {"a": 1.5, "b": [2, None]}

def helper(x):
    return x * FACTOR if x in {"p", "q", "r", "s"} else PRICES["a"]

class Model:
    limit = 7

    def __init__(self, weights):
        self.weights = weights

    def __call__(self, series, also={"u", "v", "w"}):
        return sum(helper(x) for x in series if x < self.limit)

    @property
    def size(self):
        return len(self.weights)

def recursive(n):
    return recursive(n - 1) if n else 0

model = Model(np.arange(3.0))
functions = [helper, model, model.__call__, recursive, functools.partial(helper, x=[model]),
             functools.lru_cache(helper), np.log, str.upper, np.vectorize(helper), lambda s: s.sum() + 1]
"""
MADE = {
    "map_elements": lambda f: pl.col("i").map_elements(f, return_dtype=pl.Int64).sum(),
    "map_batches": lambda f: pl.col("i").map_batches(f, return_dtype=pl.Int64).sum(),
    "map_batches of several": lambda f: pl.map_batches(["i"], f, return_dtype=pl.Int64).sum(),
    "map_groups": lambda f: pl.map_groups(["i"], f, return_dtype=pl.Int64, returns_scalar=True),
    "fold": lambda f: pl.fold(pl.lit(0), f, [pl.col("i")]).sum(),
    "reduce": lambda f: pl.reduce(f, [pl.col("i"), pl.col("j")]).sum(),
    "in a list": lambda f: pl.col("l").list.eval(pl.element().map_batches(f)).first(),
}


def digests(cell=CELL, file="<cell>", **names):
    """Return the digests of a cell's functions, alone and in expressions."""
    names |= {"__name__": "__main__"}
    exec(compile(cell, file, "exec"), names)
    made = names["functions"]
    expressions = [build(f) for f in made for build in MADE.values()]
    return [digest(f) for f in made] + [digest_of_expression(e) for e in expressions]


def in_another_process(seed, file):
    code = f"import tests.test_fingerprint as t; print(t.digests(file={file!r}))"
    root = Path(__file__).parent.parent
    env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
    return subprocess.check_output([sys.executable, "-c", code], env=env, cwd=root, text=True)


def test_a_function_has_one_digest_in_every_process():
    """Neither the order of sets, nor the name of the cell, nor the place of ids in memory counts."""
    found = {in_another_process(seed, file) for seed, file in (("1", "<a>"), ("2", "/tmp/b.py"))}
    assert len(found) == 1
    assert len(set(eval(found.pop()))) == 10 * (1 + len(MADE))


def test_the_place_of_a_function_in_a_file_does_not_count():
    """The same lines further below are the same functions."""
    assert digests() == digests("\n\n# moved\n\n" + CELL, file="<other>")


EDITS = {
    "a constant": ("n - 1", "n - 2", {3}),
    "the body of a lambda": ("s.sum() + 1", "s.max() + 1", {9}),
    "a constant of a lambda": ("s.sum() + 1", "s.sum() + 2", {9}),
    "a value of the module": ("FACTOR = 3", "FACTOR = 4", {0, 1, 2, 4, 5, 8}),
    "a value in a table": ("[2, None]", "[2, 3]", {0, 1, 2, 4, 5, 8}),
    "a member of a set": ('"s"}', '"t"}', {0, 1, 2, 4, 5, 8}),
    "an attribute of a class": ("limit = 7", "limit = 8", {1, 2, 4}),
    "the state of an object": ("np.arange(3.0)", "np.arange(4.0)", {1, 2, 4}),
    "a default": ('"w"}', '"y"}', {1, 2, 4}),
    "a property": ("len(self.weights)", "-len(self.weights)", {1, 2, 4}),
    "an argument of a partial": ("x=[model]", "x=[model, 1]", {4}),
    "a function of a library": ("np.log", "np.exp", {6}),
    "a method of a builtin": ("str.upper", "str.lower", {7}),
}


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_what_a_function_does_counts(edit):
    """An edit changes the digests of the functions that it reaches, and of no others."""
    old, new, reached = EDITS[edit]
    assert old in CELL
    before, after = digests(), digests(CELL.replace(old, new))
    assert {n for n in range(10) if before[n] != after[n]} == reached
    for place, (one, other) in enumerate(zip(before[10:], after[10:], strict=True)):
        assert (one != other) == (place // len(MADE) in reached), place


def test_a_cell_is_no_library_whatever_began_the_process(monkeypatch):
    """Begun as ``python -m package``, the main module has a file of an installed package."""
    main = types.ModuleType("__main__")
    main.__file__ = pl.__file__
    monkeypatch.setitem(sys.modules, "__main__", main)
    _of_library.cache_clear()
    assert digests()[9] != digests(CELL.replace("s.sum() + 1", "s.sum() + 2"))[9]


def closing(value, also=1, *, more=0):
    def inner(x, also=also, *, more=more):
        return x + value + also + more

    return inner


def test_closures_and_defaults_count():
    """The same code around other values is another function."""
    frame = pl.DataFrame({"a": [1, 2]})
    values = [closing(1), closing(True), closing("1"), closing(1.0), closing(1, 2), closing(1, more=1),
              closing([1]), closing((1,)), closing({1}), closing({"a": 1}), closing(None), closing(pl.Int64),
              closing(pl.Datetime("us")), closing(pl.Datetime("ms")), closing(frame), closing(frame * 2),
              closing(frame["a"]), closing(closing(1)), closing(closing(2)), closing(pl.col("a")),
              closing(MADE["fold"](closing(1))), closing(MADE["fold"](closing(2)))]  # fmt: skip
    found = [digest(f) for f in values]
    assert len(set(found)) == len(found)
    assert digest(closing([frame, {"b": closing(2)}])) == digest(
        closing([frame, {"b": closing(2)}])
    )


def test_what_has_no_value_of_its_own_is_known_by_its_kind():
    """Locks, open files and labs may be in a closure, and change nothing when they are other ones."""
    with temp_lab() as one, temp_lab() as other:
        assert digest(closing(one)) == digest(closing(other))
    assert digest(closing(threading.Lock())) == digest(closing(threading.Lock()))
    around = []
    around.append(around)
    assert digest(closing(around))
    deep = functools.reduce(lambda inner, _: [inner], range(5000), [])
    assert digest(closing(deep))


def test_what_a_function_sets_itself_is_no_value_it_was_given():
    """A global counter does not make another function of it."""
    cell = "n = {}\ndef count(x):\n    global n\n    n += 1\n    return x\nfunctions = [count]"
    assert digests(cell.format(0)) == digests(cell.format(5))


def test_other_threads_pickle_as_ever_meanwhile():
    """The stand-in for pickle is for the thread that asks, and gone afterwards."""
    found = []

    def other():
        import pickle as seen

        found.append(seen.loads(seen.dumps({"a": 1})))

    class Asking(dict):
        def items(self):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            return super().items()

    digest_of_expression(MADE["fold"](closing(Asking(a=1))))
    assert found
    assert set(map(str, found)) == {"{'a': 1}"}
    assert sys.modules["pickle"] is pickle


ADDED = """
def added(x):
    return x + {}
functions = [added, lambda x: x + {}, lambda x, by={}: x + by]
"""


@pytest.mark.parametrize("which", range(3), ids=["def", "lambda", "default"])
def test_a_cell_with_a_function_in_an_aggregation_is_its_job(which):
    """Run again, or in a new kernel, it goes on; edited, it is refused."""

    def query(lab, value):
        names = {"__name__": "__main__"}
        exec(compile(ADDED.replace("{}", str(value)), f"<cell {value}>", "exec"), names)
        function = names["functions"][which]
        total = pl.col("i").map_elements(function, return_dtype=pl.Int64).sum()
        return lab["events"].window(sl.tumbling("10s")).agg(total=total)

    with temp_lab() as lab:
        times = pl.datetime_range(
            pl.datetime(2026, 1, 5), pl.datetime(2026, 1, 6), "1h", eager=True
        )
        frame = pl.DataFrame({"ts": times.dt.replace_time_zone("UTC"), "i": range(25)})
        lab.create("events", frame, time="ts")
        query(lab, 1).run("out").wait(10).stop()
        query(lab, 1).run("out").wait(10).stop()
        assert lab["out"].to_polars()["total"].to_list() == list(range(1, 25))
        with pytest.raises(
            sl.QueryError, match='(?s)job "out" is another query.*functions or values'
        ):
            query(lab, 2).run("out")
