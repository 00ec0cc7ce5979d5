"""Files in and out: Parquet, CSV, JSON lines and Arrow, told by their endings.

`read_file` gives the rows of a file, of a folder of Parquet, or of all files a pattern names, a
batch at a time. `export` writes any rows there are. Text is parsed here, at the boundary, and
nowhere else: into the types of ``schema`` if one is given, else into what the first rows look like.

Invariants: memory stays flat however big a file is; what cannot be read or written is refused with
the file's name; a target has all rows or does not exist, because it is written beside and renamed.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import glob
import io
import itertools
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import ipc

from streamlab.errors import SchemaMismatch, StreamlabError
from streamlab.filetext import ParseError, instants_as_text, json_lines, read_csv, read_json
from streamlab.progress import progress_bar
from streamlab.schema import SYSTEM_FIELDS, batches, describe_type, normalise

__all__ = ["export", "read_file"]

FORMATS = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl",
    ".ndjson": "jsonl", ".json": "jsonl", ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow",
}  # fmt: skip
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
KNOWN = ".parquet, .csv, .tsv, .jsonl (.csv.gz and so on), .arrow, or a folder of Parquet"

GROUP_ROWS, GROUP_BYTES = 1 << 19, 64 << 20
"""Small batches are gathered to row groups of about this size."""

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
HIVE_TYPES = (
    pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us", "UTC"), pa.timestamp("us"),
    pa.string(),
)  # fmt: skip
"""What the values of a folder's name are taken for: the first that says them all in the same letters."""

MOST_FOLDERS = 10_000
"""More partitions than that are a mistake: a column with a value of its own in each row."""

Opener = Callable[[], Any]


# -- reading -----------------------------------------------------------------------------------


def read_file(
    source: Any,
    *,
    format: str | None = None,  # noqa: A002
    schema: pa.Schema | None = None,
    progress: bool | None = False,
) -> pa.RecordBatchReader:
    """Return the rows of a file as a reader that holds a batch at a time.

    ``source`` is a file's path (Parquet, CSV or TSV, JSON lines, Arrow, told by its ending; text may
    be compressed), a folder of Parquet whose subfolders may say ``name=value`` (Hive), a pattern
    such as ``"logs/*.csv"``, or with ``format`` an open binary file. ``schema`` (a stream's) gives
    the types that text is parsed into; without it they are those that fit the first 32 MB, instants
    in UTC. What is typed already is not changed.

    Raises:
        StreamlabError: nothing is there, the ending is unknown, or it is not what the ending says;
            the message names the file. Damage further on raises when the reader comes to it.
        SchemaMismatch: a value is no value of its column's type, or a column is none of the schema's.
    """
    if hasattr(source, "read"):
        if format is None:
            raise StreamlabError(
                "an open file has no ending", hint='give format="jsonl" or another'
            )
        name = str(getattr(source, "name", "the input")).replace("<stdin>", "standard input")
        reader = _read_one(name, format, lambda: source, schema, seekable=False)
        return _reported(reader, name, progress)
    paths, base = _paths_of(source)
    formats = {format or _format_of(path)[0] for path in paths}
    if len(formats) > 1:
        raise StreamlabError(
            f"{source} names files of several formats: {', '.join(sorted(formats))}"
        )
    kind = formats.pop()
    if kind == "parquet":
        reader = _parquet(str(source), paths, base, schema)
    else:
        reader = _one_after_the_other(paths, kind, schema)
    return _reported(reader, Path(source).name, progress)


def _paths_of(source: Any) -> tuple[list[Path], Path]:
    """Return the files that are meant, and the folder below which Hive names count."""
    path = Path(os.path.expanduser(os.fspath(source)))  # noqa: PTH111
    if path.is_dir():
        found = sorted(p for p in path.rglob("*.parquet") if not _hidden(p.relative_to(path)))
        if not found:
            raise StreamlabError(
                f"{path} is a folder without Parquet files", hint=f"there are {KNOWN}"
            )
        return found, path
    if path.exists():
        return [path], path.parent
    if glob.has_magic(str(path)):
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())  # noqa: PTH207
        if not found:
            raise StreamlabError(f"no file fits the pattern {path}")
        plain = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
        return found, Path(*plain)
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3)
    hint = f"did you mean {', '.join(near)}?" if near else None
    raise StreamlabError(f"there is no file {path}", hint=hint)


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.parts)


def _format_of(path: Path) -> tuple[str, str | None]:
    """Tell format and compression by the ending.

    Raises:
        StreamlabError: it is unknown.
    """
    name = Path(path.name.lower())
    compression = COMPRESSIONS.get(name.suffix)
    plain = Path(name.stem) if compression else name
    kind = FORMATS.get(plain.suffix)
    if kind is None or (compression and kind in ("parquet", "arrow")):
        raise StreamlabError(f"{path} has an ending that says no format", hint=f"known are {KNOWN}")
    return kind, compression


@contextlib.contextmanager
def _naming(name: object, doing: str = "read") -> Iterator[None]:
    """Turn what Arrow, Python and the system raise into an error that names the file."""
    try:
        yield
    except StreamlabError:
        raise
    except ParseError as error:
        raise SchemaMismatch(
            f"{name}: {error}", hint=error.hint, column=error.column, got=error.got, want=error.want
        ) from None
    except (pa.ArrowException, OSError, UnicodeError, ValueError, EOFError) as error:
        reason = (
            getattr(error, "strerror", None) or str(error).split(". Detail:", maxsplit=1)[0].strip()
        )
        raise StreamlabError(f"{name} cannot be {doing}: {reason}") from error


def _named(name: object, rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with _naming(name):
        yield from rows


def _reported(
    reader: pa.RecordBatchReader, name: str, progress: bool | None
) -> pa.RecordBatchReader:
    if progress is False:
        return reader

    def counted() -> Iterator[pa.RecordBatch]:
        with progress_bar(None, name, "rows", progress) as bar:
            for batch in reader:
                bar.update(batch.num_rows)
                yield batch

    return pa.RecordBatchReader.from_batches(reader.schema, counted())


def _one_after_the_other(
    paths: list[Path], kind: str, schema: pa.Schema | None
) -> pa.RecordBatchReader:
    """Read files of the same columns; the first one gives the types if no schema does."""

    def opened(path: Path, schema: pa.Schema | None) -> pa.RecordBatchReader:
        compression = COMPRESSIONS.get(path.suffix.lower())
        return _read_one(
            str(path), kind, lambda: pa.input_stream(str(path), compression=compression), schema
        )

    first = opened(paths[0], schema)
    if len(paths) == 1:
        return first
    wanted = schema or first.schema

    def rows() -> Iterator[pa.RecordBatch]:
        yield from first
        for path in paths[1:]:
            reader = opened(path, wanted)
            if reader.schema.names != first.schema.names and set(reader.schema.names) != set(
                first.schema.names
            ):
                odd = min(set(reader.schema.names) ^ set(first.schema.names))
                raise StreamlabError(
                    f"{path} and {paths[0]} have different columns: {odd!r} is in one only"
                )
            with _naming(path):
                for batch in reader:
                    yield batch.select(first.schema.names).cast(first.schema)

    return pa.RecordBatchReader.from_batches(first.schema, rows())


def _read_one(
    name: str, kind: str, open_: Opener, schema: pa.Schema | None, *, seekable: bool = True
) -> pa.RecordBatchReader:
    with _naming(name):
        if kind not in ("csv", "tsv", "jsonl", "arrow"):
            raise StreamlabError(
                f"{name} cannot be read as {kind!r}",
                hint="an open file is csv, tsv, jsonl or arrow",
            )
        if kind == "arrow":
            return _arrow(name, open_())
        if schema is None and not seekable:  # looked at twice: for the types, then for the rows
            content = open_().read()
            open_ = lambda: io.BytesIO(content)  # noqa: E731
        if kind == "jsonl":
            target, rows = read_json(open_, schema)
        else:
            target, rows = read_csv(open_, "\t" if kind == "tsv" else ",", schema)
        return pa.RecordBatchReader.from_batches(target, _named(name, rows))


def _arrow(name: str, file: Any) -> pa.RecordBatchReader:
    """Read an Arrow file, or a stream, of foreign hands: the schema layer validates each batch."""
    if not getattr(file, "seekable", bool)():
        stream = ipc.open_stream(file)
        return pa.RecordBatchReader.from_batches(stream.schema, _named(name, stream))
    magic = file.read(6)
    file.seek(0)
    if magic[:4] == b"FEA1":
        raise StreamlabError(f"{name} is of the old Feather format", hint="write it as Parquet")
    if magic != b"ARROW1":
        stream = ipc.open_stream(file)
        return pa.RecordBatchReader.from_batches(stream.schema, _named(name, stream))
    whole = ipc.open_file(file)
    parts = (whole.get_batch(index) for index in range(whole.num_record_batches))
    return pa.RecordBatchReader.from_batches(whole.schema, _named(name, parts))


def _parquet(
    name: str, paths: list[Path], base: Path, schema: pa.Schema | None
) -> pa.RecordBatchReader:
    """Read Parquet files as one; their columns are united, ``name=value`` folders are columns."""
    import pyarrow.dataset as ds
    import pyarrow.fs as pafs

    with _naming(name):
        hive = _hive_fields(paths, base, schema)
        options = ds.FileSystemFactoryOptions(partition_base_dir=str(base))
        if len(hive):
            options.partitioning = ds.partitioning(hive, flavor="hive")
        factory = ds.FileSystemDatasetFactory(
            pafs.LocalFileSystem(), [str(path) for path in paths], ds.ParquetFileFormat(), options
        )
        united = factory.inspect(promote_options="permissive", fragments=None)
        dataset = factory.finish(united.remove_metadata())
        scanner = dataset.scanner(batch_size=1 << 17, batch_readahead=4, fragment_readahead=2)
        reader = scanner.to_reader()
        wanted = _with_decimals(reader.schema, hive, schema)
        rows = reader if wanted == reader.schema else (batch.cast(wanted) for batch in reader)
        return pa.RecordBatchReader.from_batches(wanted, _named(name, rows))


def _hive_fields(paths: list[Path], base: Path, schema: pa.Schema | None) -> pa.Schema:
    """Return the columns that folders named ``name=value`` stand for, with types that fit."""
    values: dict[str, list[str]] = {}
    for path in paths:
        for part in path.relative_to(base).parts[:-1]:
            name, equals, value = part.partition("=")
            if equals:
                found = values.setdefault(unquote(name), [])
                found += [] if value == HIVE_NULL else [unquote(value)]
    fields = []
    for name, found in values.items():
        if schema is not None and name in schema.names:
            kind = schema.field(name).type
            fields.append(pa.field(name, pa.string() if pa.types.is_decimal(kind) else kind))
        elif name in SYSTEM_FIELDS:
            fields.append(SYSTEM_FIELDS[name])
        else:
            kinds = (kind for kind in HIVE_TYPES if found and _all_are(found, kind))
            fields.append(pa.field(name, next(kinds, pa.string())))
    return pa.schema(fields)


def _with_decimals(got: pa.Schema, hive: pa.Schema, schema: pa.Schema | None) -> pa.Schema:
    """Return the schema with the decimals that Arrow cannot read out of folders' names itself."""
    for field in schema or ():
        if field.name in hive.names and pa.types.is_decimal(field.type):
            got = got.set(got.get_field_index(field.name), field)
    return got


def _all_are(texts: list[str], kind: pa.DataType) -> bool:
    try:
        return bool(pa.array(texts).cast(kind).cast(pa.string()).equals(pa.array(texts)))
    except pa.ArrowException:
        return False


# -- writing -----------------------------------------------------------------------------------


def export(
    source: Any,
    path: Any,
    *,
    format: str | None = None,  # noqa: A002
    partition_by: str | Iterable[str] | None = None,
    system: bool = True,
    overwrite: bool = False,
    progress: bool | None = None,
) -> int:
    """Write rows to a file and return how many there were.

    ``source`` is a stream or a view of one, a DuckDB relation, a Polars frame or LazyFrame, or
    whatever else has rows in Arrow; it is read in batches, in order. The ending of ``path`` says
    Parquet, CSV, TSV, JSON lines or Arrow; text may be compressed (``.csv.gz``). With
    ``partition_by`` (Parquet) it is a folder with one subfolder for each value. With ``format`` it
    may be an open binary file. ``system=False`` leaves the system columns out. The file appears
    under its name when it is whole, and never otherwise.

    Raises:
        StreamlabError: the target is there already and ``overwrite`` is not set, its ending is
            unknown, it cannot be written, or it cannot hold a column's type.
        SchemaMismatch: ``source`` is not rows, or has no such column to partition by.
    """
    schema, rows, total = _source(source, system=system)
    names = [partition_by] if isinstance(partition_by, str) else list(partition_by or ())
    if hasattr(path, "write"):
        if format not in ("csv", "tsv", "jsonl", "arrow"):
            raise StreamlabError('an open file takes format="csv", "tsv", "jsonl" or "arrow"')
        _check_types(format, schema, format.upper())
        return _written(rows, schema, format, path, progress=False)
    target = Path(os.path.expanduser(os.fspath(path)))  # noqa: PTH111
    kind, compression = ("parquet", None) if names else (format or "", None)
    if not kind:
        kind, compression = _format_of(target)
    _check_types(kind, schema, target)
    _check_target(target, overwrite=overwrite, folder=bool(names))
    beside = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _naming(target, "written"):
            if names:
                count = _write_folder(rows, schema, beside, names, total=total, progress=progress)
            else:
                with pa.output_stream(str(beside), compression=compression) as file:
                    count = _written(
                        rows, schema, kind, file, total=total, name=target.name, progress=progress
                    )
            _put_in_place(beside, target, overwrite=overwrite)
    finally:
        _remove(beside)
    return count


def _source(data: Any, *, system: bool) -> tuple[pa.Schema, Iterator[pa.RecordBatch], int | None]:
    """Return schema, batches in plain types, and how many rows there are, if that is known."""
    if isinstance(data, str | os.PathLike):
        raise SchemaMismatch(f"{data!r} is a path, not rows", hint="sl.export(rows, path)")
    total: int | None = None
    rows: Any
    if hasattr(data, "dataset") and hasattr(
        data, "follow"
    ):  # a stream: its own errors come through
        snapshot = data.dataset()._snapshot  # noqa: SLF001
        schema, rows = snapshot.schema, snapshot.batches()
        total = snapshot.count() if snapshot.event_filter is None else None
    elif hasattr(data, "collect_batches"):
        schema, rows = _lazy_rows(data)
    elif hasattr(data, "to_arrow_reader"):  # DuckDB's, which would otherwise hold all rows at once
        rows = data.to_arrow_reader(1 << 16)
        schema = rows.schema
    else:
        reader = batches(data)
        schema, rows, total = reader.schema, reader, getattr(data, "num_rows", None)
    names = [f.name for f in schema if system or f.name not in SYSTEM_FIELDS]
    if not names:
        raise SchemaMismatch("there is no column to write")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        hint = f"give one another name: {twice} AS ..."
        raise SchemaMismatch(f'column "{twice}" is there twice', hint=hint, column=twice)
    plain = pa.schema([_plain(schema.field(name)) for name in names])
    if plain == schema:
        return plain, iter(rows), total
    return plain, (batch.select(names).cast(plain) for batch in rows), total


def _lazy_rows(frame: Any) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    import polars as pl

    level = pl.CompatLevel.oldest()  # no views
    schema = frame.collect_schema().to_frame().to_arrow(compat_level=level).schema
    parts = frame.collect_batches(maintain_order=True)
    return schema, (
        batch
        for part in parts
        for batch in part.to_arrow(compat_level=level).cast(schema).to_batches()
    )


def _plain(field: pa.Field) -> pa.Field:
    """Return a field of a type that every reader of the file knows."""
    if field.name in SYSTEM_FIELDS:
        return field
    try:
        return normalise(pa.schema([field.with_nullable(True)])).field(0)
    except SchemaMismatch:
        return field


def _check_types(kind: str, schema: pa.Schema, target: Path | str) -> None:
    """Refuse what CSV has no way to say.

    Raises:
        StreamlabError: naming the column.
    """
    if kind not in ("csv", "tsv"):
        return
    for field in schema:
        if pa.types.is_nested(field.type) or "binary" in str(field.type):
            raise StreamlabError(
                f'{target} cannot hold column "{field.name}": CSV has no {describe_type(field.type)}',
                hint="write .parquet, .jsonl or .arrow, or leave the column out",
            )


def _check_target(target: Path, *, overwrite: bool, folder: bool) -> None:
    if not target.parent.is_dir():
        raise StreamlabError(f"{target} cannot be written: there is no folder {target.parent}")
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise StreamlabError(f"{target} is there already", hint="overwrite=True replaces it")
    if not folder:
        if target.is_dir():
            raise StreamlabError(f"{target} is a folder, and a file does not replace it")
        return
    if not target.is_dir() or target.is_symlink():
        raise StreamlabError(f"{target} is a file, and a folder does not replace it")
    foreign = [p for p in target.rglob("*") if not p.is_dir() and p.suffix != ".parquet"]
    if foreign:
        raise StreamlabError(
            f"{target} is not replaced: it holds {foreign[0].relative_to(target)}, which is not Parquet",
            hint="choose another folder, or remove this one yourself",
        )


def _put_in_place(beside: Path, target: Path, *, overwrite: bool) -> None:
    """Make what was written durable and give it its name, in one step."""
    for path in [beside, *beside.rglob("*")] if beside.is_dir() else [beside]:
        _sync(path)
    if beside.is_dir():
        if target.exists():
            old = beside.with_suffix(".old")
            target.rename(old)
            beside.rename(target)
            _remove(old)
        else:
            beside.rename(target)
    elif overwrite:
        beside.replace(target)
    else:
        try:
            os.link(beside, target)  # unlike a rename it never replaces
        except FileExistsError:
            raise StreamlabError(f"{target} appeared while it was written") from None
        except OSError:  # a file system without links
            beside.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _counted(
    rows: Iterable[pa.RecordBatch], bar: Any, count: list[int]
) -> Iterator[pa.RecordBatch]:
    for batch in rows:
        count[0] += batch.num_rows
        bar.update(batch.num_rows)
        yield batch


def _written(
    rows: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    kind: str,
    file: Any,
    *,
    total: int | None = None,
    name: str = "",
    progress: bool | None,
) -> int:
    count = [0]
    with progress_bar(total, name, "rows", progress) as bar:
        write = _WRITERS.get(kind)
        if write is None:
            raise StreamlabError(f"there is no format {kind!r}", hint=f"known are {KNOWN}")
        write(_counted(rows, bar, count), schema, file)
    return count[0]


def _write_folder(
    rows: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    folder: Path,
    names: list[str],
    *,
    total: int | None,
    progress: bool | None,
) -> int:
    import pyarrow.dataset as ds

    for name in names:
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, 1) or schema.names
            raise SchemaMismatch(
                f'no column "{name}" to partition by',
                hint=f"there are {', '.join(near)}",
                column=name,
            )
        kind = schema.field(name).type
        if pa.types.is_nested(kind) or "binary" in str(kind):
            raise SchemaMismatch(
                f'column "{name}" is {describe_type(kind)}, and the name of a folder is text',
                hint="partition by another column",
                column=name,
            )
    if len(names) == len(schema.names):
        raise SchemaMismatch("every column is a partition: none is left for the files")
    count = [0]
    fields = pa.schema([schema.field(name) for name in names])
    folder.mkdir()
    with progress_bar(total, "Parquet", "rows", progress) as bar:
        ds.write_dataset(
            _named_apart(_gathered(_counted(rows, bar, count)), names), folder, schema=schema, format="parquet",
            partitioning=ds.partitioning(fields, flavor="hive"), preserve_order=True,
            max_partitions=MOST_FOLDERS, max_open_files=256, max_rows_per_group=GROUP_ROWS,
            file_options=ds.ParquetFileFormat().make_write_options(compression="zstd"),
        )  # fmt: skip
    return count[0]


def _named_apart(rows: Iterable[pa.RecordBatch], names: list[str]) -> Iterator[pa.RecordBatch]:
    """Refuse the text that stands for null in the names of folders: it would come back as null."""
    for batch in rows:
        for name in names:
            column = batch.column(name)
            if "string" in str(column.type) and pc.any(pc.equal(column, HIVE_NULL)).as_py():
                raise SchemaMismatch(
                    f'column "{name}" holds {HIVE_NULL!r}, which as a folder stands for null',
                    column=name,
                )
        yield batch


def _gathered(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Gather small batches, so that a file does not become a thousand row groups."""
    waiting: list[pa.RecordBatch] = []
    count = size = 0
    for batch in rows:
        waiting.append(batch)
        count += batch.num_rows
        size += batch.nbytes
        if count >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_batches(waiting)
            waiting, count, size = [], 0, 0
    if count:
        yield pa.concat_batches(waiting)


def _write_parquet(rows: Iterator[pa.RecordBatch], schema: pa.Schema, file: Any) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in _gathered(rows):
            writer.write_batch(batch)


def _write_arrow(rows: Iterator[pa.RecordBatch], schema: pa.Schema, file: Any) -> None:
    new = ipc.new_file if isinstance(file, pa.NativeFile) else ipc.new_stream
    with new(file, schema) as writer:
        for batch in _gathered(rows):
            writer.write_batch(batch)


def _write_csv(
    rows: Iterator[pa.RecordBatch], schema: pa.Schema, file: Any, delimiter: str = ","
) -> None:
    from pyarrow import csv

    options = csv.WriteOptions(delimiter=delimiter, quoting_style="needed")
    zoned = [place for place, field in enumerate(schema) if getattr(field.type, "tz", None)]
    for place in zoned:
        schema = schema.set(place, pa.field(schema.names[place], pa.string()))
    with csv.CSVWriter(file, schema, write_options=options) as writer:
        for batch in rows:
            arrays = [
                instants_as_text(column) if place in zoned else column
                for place, column in enumerate(batch.columns)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))


def _write_json(rows: Iterator[pa.RecordBatch], schema: pa.Schema, file: BinaryIO) -> None:
    del schema
    for batch in rows:
        step = 1 << 14
        file.writelines(json_lines(batch.slice(at, step)) for at in range(0, batch.num_rows, step))


_WRITERS: dict[str, Callable[[Iterator[pa.RecordBatch], pa.Schema, Any], None]] = {
    "parquet": _write_parquet,
    "arrow": _write_arrow,
    "csv": _write_csv,
    "tsv": functools.partial(_write_csv, delimiter="\t"),
    "jsonl": _write_json,
}
