"""Python functions and values as digests: the same in every process, another when what they do is.

A job must know whether the query it resumes is the one that it was, and a query may hold functions,
also inside Polars expressions. A pickle does not tell: it differs between processes, or has only a
name. So a function is its bytecode, constants, defaults, and the values it uses from around it.

Invariants: names of files and numbers of lines do not count, nor the order of sets; what a library
made counts by its name, so that an upgrade of the library changes nothing; no function is called
to be told. Bytecode is that of one version of Python: another may give another digest.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
import hashlib
import pickle
import re
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["digest", "digest_of_expression"]

BUILTIN = {
    type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, type(...),
}  # fmt: skip
OF_MODULES = {"datetime", "decimal", "fractions", "pathlib", "uuid", "zoneinfo"}
"""With these, the values whose repr is the same in every process, and tells them apart."""

_serialising = threading.RLock()
_here = threading.local()


def digest(value: Any) -> str:
    """Return a text that is the same for the same function or value, in every process."""
    try:
        return _Teller().tell(value)
    except RecursionError:  # values in values in values: what kind it is must do
        return _hash(_name(type(value)).encode())


def digest_of_expression(expression: pl.Expr) -> str:
    """Return a text that is the same for the same expression, the functions in it included."""
    return _expression(expression, digest)


def _expression(expression: pl.Expr, told: Callable[[Any], str]) -> str:
    """Return the digest of an expression; ``told`` gives that of a function in it."""
    import polars as pl

    with _in_place_of_pickle(told):
        try:
            return _hash(expression.meta.serialize(format="binary"))
        except pl.exceptions.ComputeError:  # a part that no file can hold: its text is what is left
            return _hash(re.sub(r"0x[0-9a-fA-F]+", "", str(expression)).encode())


class _StandIn(types.ModuleType):
    """The module pickle, which writes digests in a thread that asks for them."""

    def dumps(self, value: Any, *arguments: Any, **options: Any) -> bytes:
        told = getattr(_here, "told", None)
        if told is None:
            return pickle.dumps(value, *arguments, **options)
        return bytes(told(value), "ascii")

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)


@contextlib.contextmanager
def _in_place_of_pickle(told: Callable[[Any], str]) -> Iterator[None]:
    """Let Polars write the digest of a function where it would write its pickle.

    Polars looks the module up at every function, and has no other way to get at one. A thread that
    imports pickle meanwhile may keep the stand-in, which does all that the module does.
    """
    with _serialising:
        before = sys.modules["pickle"], getattr(_here, "told", None)
        sys.modules["pickle"], _here.told = _StandIn("pickle"), told
        try:
            yield
        finally:
            sys.modules["pickle"], _here.told = before


class _Teller:
    """Tells one value, and those it is made of, each once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, str]] = {}  # the value too: an id is one's while it lives

    def tell(self, value: Any) -> str:
        kind = type(value)
        if kind in BUILTIN or kind.__module__.partition(".")[0] in OF_MODULES:
            return _hash(f"{kind.__qualname__} {value!r}".encode())
        if id(value) in self._known:
            return self._known[id(value)][1]
        self._known[id(value)] = value, "itself"
        found = _hash(" ".join(self._parts(value)).encode())
        self._known[id(value)] = value, found
        return found

    def _parts(self, value: Any) -> Iterator[str]:
        """Yield what a value comes down to."""
        yield _name(type(value))
        match value:
            case types.CodeType():
                yield from self._code(value)
            case types.FunctionType():
                yield from self._function(value)
            case type():
                yield from self._class(value)
            case types.ModuleType():
                yield value.__name__
            case types.BuiltinFunctionType() | types.MethodType():
                owner = value.__self__
                yield value.__name__ if isinstance(owner, types.ModuleType) else self.tell(owner)
                yield self.tell(getattr(value, "__func__", value.__qualname__))
            case types.CellType():
                yield "empty" if value == types.CellType() else self.tell(value.cell_contents)
            case functools.partial():
                yield from map(self.tell, (value.func, value.args, value.keywords))
            case enum.Enum():
                yield value.name
            case re.Pattern():
                yield f"{value.pattern!r} {value.flags}"
            case property():
                yield from map(self.tell, (value.fget, value.fset))
            case set() | frozenset():
                yield from sorted(map(self.tell, value))
            case list() | tuple():
                yield from map(self.tell, value)
            case dict() | types.MappingProxyType():
                yield from (self.tell(part) for pair in value.items() for part in pair)
            case _:
                yield from self._object(value)

    def _code(self, code: types.CodeType) -> Iterator[str]:
        yield code.co_code.hex()
        yield code.co_exceptiontable.hex()
        yield f"{code.co_names} {code.co_argcount} {code.co_kwonlyargcount} {code.co_flags}"
        lined = "__firstlineno__" in code.co_names  # a class says where it stands
        for const in code.co_consts:
            if not (lined and const == code.co_firstlineno):
                yield self.tell(const)

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        if _of_library(function.__module__):
            yield _name(function)
        else:
            yield self.tell(function.__code__)
            used = _globals(function.__code__)
            for name in sorted(used & function.__globals__.keys()):
                yield name
                yield self.tell(function.__globals__[name])
        yield self.tell(function.__defaults__)
        yield self.tell(function.__kwdefaults__)
        yield from map(self.tell, function.__closure__ or ())
        if hasattr(function, "__wrapped__"):
            yield self.tell(function.__wrapped__)

    def _class(self, kind: type) -> Iterator[str]:
        yield _name(kind)
        if _of_library(kind.__module__):
            return
        yield from map(self.tell, kind.__bases__)
        for name, held in sorted(vars(kind).items()):
            if not name.startswith("__") or isinstance(held, types.FunctionType):
                yield name
                yield self.tell(held)

    def _object(self, value: Any) -> Iterator[str]:
        """Yield what tells an object: its data if it is a frame, its attributes if it is the user's."""
        kind = type(value)
        package = kind.__module__.partition(".")[0]
        if package in ("polars", "numpy"):
            yield from self._data(value)
        elif package in ("pandas", "pyarrow") and hasattr(value, "__arrow_c_stream__"):
            import polars as pl

            yield self.tell(pl.DataFrame(value))
            return
        held = dict(getattr(value, "__dict__", {}))
        if _of_library(kind.__module__):  # its caches and handles say nothing, functions do
            yield str(getattr(value, "__qualname__", ""))
            held = {name: part for name, part in held.items() if callable(part)}
        else:
            yield self.tell(kind)
            slots = (name for c in kind.__mro__ for name in _slots(c))
            held |= {name: getattr(value, name) for name in slots if hasattr(value, name)}
        for name, part in sorted(held.items()):
            yield name
            yield self.tell(part)

    def _data(self, value: Any) -> Iterator[str]:
        import numpy as np
        import polars as pl

        match value:
            case np.ndarray() if value.dtype.hasobject:
                yield self.tell(value.tolist())
            case np.ndarray():
                yield f"{value.dtype} {value.shape} {_hash(value.tobytes())}"
            case np.generic() | np.dtype() | pl.DataType():
                yield repr(value)
            case pl.Expr():
                yield _expression(value, self.tell)
            case pl.Series():
                yield from self._data(value.to_frame())
            case pl.DataFrame():
                yield str(value.schema)
                with contextlib.suppress(pl.exceptions.PolarsError):  # objects have no hash
                    yield _hash(value.hash_rows(seed=0).to_numpy().tobytes())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _name(value: Any) -> str:
    """Return what a function or class is called; a user's may be made anywhere."""
    module = getattr(value, "__module__", None)
    where = f"{module}." if _of_library(module) else ""
    return f"{where}{value.__qualname__}"


def _globals(code: types.CodeType) -> set[str]:
    """Return the names that code takes from its module; what it sets itself is no value it was given."""
    found, made = set(), set()
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            found.add(str(step.argval))
        elif step.opname in ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_NAME"):
            made.add(str(step.argval))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= _globals(const)
    return found - made


def _slots(kind: type) -> list[str]:
    given: Any = vars(kind).get("__slots__", ())
    return [given] if isinstance(given, str) else list(given)


@functools.lru_cache(maxsize=1024)
def _of_library(module: str | None) -> bool:
    """Whether a module is Python's, installed, or ours: no user edits it between two runs."""
    root = (module or "").partition(".")[0]
    if root == "__main__":  # the cells of a notebook, whatever program began it
        return False
    if root in sys.stdlib_module_names or root == "streamlab":
        return True
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    return file.startswith((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
