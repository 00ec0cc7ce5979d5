"""The catalog: which streams a lab has, and what each of them is.

A lab is a folder with ``lab.json`` and ``streams/``; a stream is a folder there with ``stream.json``
and a log. Both files carry a checksum of their content: a flipped bit in a delay would change
results silently.

Invariants: a stream appears with all its files or not at all (it is made beside and renamed); names
can be folders on every file system; nothing outside the lab's folder is ever touched.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc

from streamlab.errors import (
    CorruptSegment,
    InvalidName,
    SchemaMismatch,
    StreamExists,
    StreamlabError,
    StreamNotFound,
)
from streamlab.log import disk
from streamlab.log.format import dump_json, load_json
from streamlab.log.log import Log
from streamlab.schema import SYSTEM_FIELDS, physical
from streamlab.settings import Retention

__all__ = ["Catalog", "StreamInfo"]

LEFTOVER_SECONDS = 600.0
"""A stream is made or dropped in much less; what is older was left by a crash."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
RESERVED = {"con", "prn", "aux", "nul"} | {f"{n}{i}" for n in ("com", "lpt") for i in range(10)}


@dataclass(frozen=True)
class StreamInfo:
    """What a stream is: everything about it that is not its rows."""

    id: str
    name: str
    schemas: tuple[pa.Schema, ...]  # of the files, by id from 1; the last one is in force
    required: tuple[str, ...] = ()  # columns that are never null
    time: str | None = None
    key: tuple[str, ...] = ()
    partitions: int = 1
    delay: int = 0
    retention: Retention = field(default_factory=Retention)
    cleanup: str = "delete"
    settings: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0
    job: str | None = None  # the job whose results these are, and who alone may append

    @property
    def schema_id(self) -> int:
        return len(self.schemas)

    def stored(self, schema_id: int) -> pa.Schema:
        """Return the schema of files with this id.

        Raises:
            CorruptSegment: ``stream.json`` has none of that id: an older one came back in a power cut.
        """
        if not 1 <= schema_id <= len(self.schemas):
            reason = f"files have schema {schema_id}, and it ends with {len(self.schemas)}"
            raise CorruptSegment(Path(self.name) / "stream.json", 0, reason)
        return self.schemas[schema_id - 1]

    @property
    def schema(self) -> pa.Schema:
        """The user's columns, with what was promised never to be null."""
        fields = [f for f in self.schemas[-1] if f.name not in SYSTEM_FIELDS]
        return pa.schema([f.with_nullable(f.name not in self.required) for f in fields])

    @property
    def has_deletions(self) -> bool:
        """Whether rows carry ``_deleted``."""
        return "_deleted" in self.schemas[-1].names

    def with_schema(self, schema: pa.Schema, *, deletions: bool) -> StreamInfo:
        """Return the info with one schema more, in force from now on."""
        required = tuple(f.name for f in schema if not f.nullable)
        stored = stored_schema(schema, partitions=self.partitions, deletions=deletions)
        return replace(self, schemas=(*self.schemas, stored), required=required)


def stored_schema(schema: pa.Schema, *, partitions: int, deletions: bool) -> pa.Schema:
    """Return the schema of a file: system columns that are not constant, then the user's."""
    fields = [SYSTEM_FIELDS["_partition"]] if partitions > 1 else []
    fields += [SYSTEM_FIELDS["_deleted"]] if deletions else []
    return pa.schema([*fields, *physical(schema)])


class Catalog:
    """The streams of one lab folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.jobs: Any = None  # who runs queries over these streams, set by the lab
        self.folder = path / "streams"
        self._known: dict[str, tuple[tuple[int, int], StreamInfo]] = {}

    def create(self) -> None:
        """Make the lab's folder, or take the one that is there.

        Raises:
            StreamlabError: something else is there.
        """
        try:
            self._make_folder(self.path)
        except OSError as error:
            raise StreamlabError(f"{self.path} cannot be a lab: {error.strerror}") from error
        if not self.path.is_dir():
            raise StreamlabError(f"{self.path} cannot be a lab: it is a file")
        marker = self.path / "lab.json"
        if not marker.exists():
            ours = re.compile(r"streams|jobs|\.lab\.json\.\d+\.tmp")  # the last one by a crash
            others = [p.name for p in self.path.iterdir() if not ours.fullmatch(p.name)]
            if others:
                raise StreamlabError(
                    f"{self.path} is not a lab: it holds {', '.join(sorted(others)[:3])} but no lab.json",
                    hint="open a folder that is empty or does not exist yet",
                )
            with contextlib.suppress(FileExistsError):
                disk.make_dir(self.folder)
            content = {"format": 1, "id": uuid.uuid4().hex, "created": time.time()}
            disk.replace_file(marker, dump_json(content))
        self.check()
        self._clear()

    def _clear(self) -> None:
        """Remove what a crash left of streams that were being made or dropped."""
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFTOVER_SECONDS
                if re.fullmatch(r"\.(new|gone)-[0-9a-f]{32}", entry.name) and old:
                    remove_folder(Path(entry.path))

    def _make_folder(self, path: Path) -> None:
        """Make a folder and those above it, durable in name."""
        if not path.is_dir():
            self._make_folder(path.parent)
            with contextlib.suppress(FileExistsError):
                disk.make_dir(path)
            disk.sync_dir(path.parent)

    def check(self) -> None:
        """See that this is a lab, of a format that is known.

        Raises:
            StreamlabError: it is none.
            NewerFormat: a newer streamlab made it.
            CorruptSegment: ``lab.json`` is not what was written.
        """
        marker = self.path / "lab.json"
        try:
            load_json(disk.read(marker), marker)
        except FileNotFoundError:
            raise StreamlabError(
                f"there is no lab at {self.path}", hint=f"sl.open({str(self.path)!r}) makes one"
            ) from None
        except (NotADirectoryError, OSError) as error:
            raise StreamlabError(f"{self.path} is not a lab: {error}") from error

    def names(self) -> list[str]:
        """Return the names of all streams, sorted."""
        with contextlib.suppress(FileNotFoundError):
            with os.scandir(self.folder) as entries:
                found = [e.name for e in entries if NAME.fullmatch(e.name) and is_stream(e)]
            return sorted(found)
        return []

    def info(self, name: str) -> StreamInfo:
        """Return what a stream is, read again only if it was changed.

        Raises:
            StreamNotFound: naming the nearest.
            CorruptSegment: ``stream.json`` is not what was written.
        """
        folder = f"{self.folder}/{name}"  # paths as text: this is asked at each append
        try:
            if not (isinstance(name, str) and NAME.fullmatch(name)) or os.path.islink(folder):  # noqa: PTH114
                raise FileNotFoundError  # noqa: TRY301
            stat = os.stat(f"{folder}/stream.json", follow_symlinks=False)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            raise self._not_found(name) from None
        version = (stat.st_ino, stat.st_mtime_ns)
        known = self._known.get(name)
        if known is None or known[0] != version:
            path = Path(folder, "stream.json")
            known = self._known[name] = (version, _parse(load_json(disk.read(path), path), path))
        return known[1]

    def _not_found(self, name: str) -> StreamNotFound:
        names = self.names()
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.4) or names[:5]
        hint = (
            f"did you mean {', '.join(map(repr, near))}?" if near else "the lab has no stream yet"
        )
        return StreamNotFound(f'there is no stream "{name}" in {self.path}', hint=hint)

    def add(self, info: StreamInfo, fill: Callable[[Path], None] | None = None) -> None:
        """Make a stream, all its files at once: an empty one, or one whose log ``fill`` makes.

        Raises:
            InvalidName: the name could not be a folder everywhere.
            StreamExists: there is one of that name.
        """
        check_name(info.name, self.names())
        target = self.folder / info.name
        if target.exists():
            raise StreamExists(
                f'there is a stream "{info.name}" already',
                hint="lab.drop(name) removes it; exist_ok=True takes it as it is",
            )
        beside = self.folder / f".new-{uuid.uuid4().hex}"
        disk.make_dir(beside)
        try:
            disk.replace_file(beside / "stream.json", dump_json(_content(info)))
            if fill is None:
                Log.create(beside, info.id, info.stored(1), 1)
            else:
                fill(beside)
            if target.exists():
                raise StreamExists(f'there is a stream "{info.name}" already')  # noqa: TRY301
            disk.rename(beside, target)
        except BaseException:
            remove_folder(beside)
            raise
        disk.sync_dir(self.folder)

    def save(self, info: StreamInfo) -> None:
        """Replace what a stream is."""
        disk.replace_file(self.folder / info.name / "stream.json", dump_json(_content(info)))

    def drop(self, name: str) -> None:
        """Remove a stream; it is gone at once, its files a moment later."""
        self.info(name)
        beside = self.folder / f".gone-{uuid.uuid4().hex}"
        disk.rename(self.folder / name, beside)
        disk.sync_dir(self.folder)
        self._known.pop(name, None)
        remove_folder(beside)


def check_name(name: str, taken: Iterable[str], what: str = "stream") -> None:
    """Refuse a name that could not be a folder everywhere, or differs from another by case only.

    Raises:
        InvalidName: saying why.
    """
    why = None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        why = "a name has letters, digits, '.', '_' and '-', begins with a letter or digit, and is at most 200 long"
    elif name.endswith(".") or name.split(".", maxsplit=1)[0].lower() in RESERVED:
        why = "some file systems keep that name for themselves"
    elif twins := [t for t in taken if t.lower() == name.lower() and t != name]:
        why = (
            f"it differs from {twins[0]!r} by case only, which some file systems cannot tell apart"
        )
    if why:
        raise InvalidName(f"{name!r} is no name for a {what}: {why}")


def is_stream(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) and (Path(entry.path) / "stream.json").is_file()


def remove_folder(folder: Path) -> None:
    """Remove a stream's folder: the files and folders that we made, nothing behind a link."""
    if folder.is_symlink():
        return
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False):
                remove_folder(Path(entry.path))
            else:
                disk.unlink(Path(entry.path))
        os.rmdir(folder)  # noqa: PTH106


def _content(info: StreamInfo) -> dict[str, Any]:
    return {
        "format": 1,
        "id": info.id,
        "name": info.name,
        "created": info.created,
        "time": info.time,
        "key": list(info.key),
        "partitions": info.partitions,
        "delay": info.delay,
        "retention": {"age": info.retention.age, "size": info.retention.size},
        "cleanup": info.cleanup,
        "settings": info.settings,
        "required": list(info.required),
        **({"job": info.job} if info.job else {}),
        "schemas": [
            {
                "id": number,
                "columns": {f.name: str(f.type) for f in schema},
                "arrow": base64.b64encode(schema.serialize()).decode(),
            }
            for number, schema in enumerate(info.schemas, 1)
        ],
    }


def _parse(content: dict[str, Any], path: Path) -> StreamInfo:
    try:
        schemas = tuple(
            ipc.read_schema(pa.py_buffer(base64.b64decode(schema["arrow"])))
            for schema in content["schemas"]
        )
        return StreamInfo(
            content["id"], content["name"], schemas, tuple(content["required"]), content["time"],
            tuple(content["key"]), content["partitions"], content["delay"],
            Retention(**content["retention"]), content["cleanup"], content["settings"],
            content["created"], content.get("job"),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise CorruptSegment(path, 0, f"{type(error).__name__}: {error}") from error


def require_columns(schema: pa.Schema, names: Iterable[str], what: str) -> None:
    """Refuse a key or time column that the schema does not have.

    Raises:
        SchemaMismatch: naming it, and the nearest there is.
    """
    for name in names:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(schema.names)}"
            raise SchemaMismatch(
                f"{what} column {name!r} is not in the schema", hint=hint, column=name
            )
