"""The command line: a thin layer over ``import streamlab as sl``, for shells and scripts.

Each verb does one thing and prints a readable table, or with ``--json`` one JSON object for each
row. Exit codes: 0 done; 1 a mistake in what was asked, or damaged data, said on stderr without a
traceback (``STREAMLAB_DEBUG=1`` shows it); 2 usage; 130 Ctrl-C. A closed pipe ends it silently.

Only `new`, `import` and `unpack` make a lab; `append`, `fork`, these and `demo` are all that write to one.
"""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

import streamlab as sl
from streamlab import cli_time
from streamlab.cli_io import binary_out, counted, iso, no_lab, opened, show, show_json
from streamlab.cli_parser import SHOWN_ROWS, parser
from streamlab.cli_text import (
    cells_of,
    clean,
    columns_of,
    format_ago,
    format_size,
    format_span,
    parse_schema,
    table,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser(VERBS).parse_args(arguments)
    try:
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        silence()
        return 0
    except Exception as error:
        if os.environ.get("STREAMLAB_DEBUG"):
            raise
        complain(error)
        return 1
    return code


def silence() -> None:
    """Let nothing more be written to a pipe that nobody reads, not even at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError, AttributeError):  # not a file, or closed
            continue
    os.close(nowhere)


def complain(error: Exception) -> None:
    """Say what went wrong, on stderr, with the next step."""
    text = str(error)
    if isinstance(error, OSError) and not isinstance(error, sl.StreamlabError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    elif type(error).__module__.endswith("duckdb"):  # a query that fails as its rows are read
        text = text.partition("\n\n")[0]
    elif not isinstance(error, sl.StreamlabError | ValueError | TypeError):
        text = f"{type(error).__name__}: {text}\nHint: STREAMLAB_DEBUG=1 shows where"
    lines = [clean(line) for line in in_shell_words(text).splitlines()] or [type(error).__name__]
    print("\n".join([f"streamlab: {lines[0]}", *lines[1:]]), file=sys.stderr)


SHELL_WORDS = {
    r"overwrite=True": "--overwrite",
    r"\.table\(\) is the .*": "streamlab export --compacted takes what is left",
    r"sl\.export\(relation, path\) writes files; .*": "streamlab export writes files; --csv and --json print",
    r"lab\.sql cannot reach files: .*": "streamlab import loads a file into a stream, streamlab export writes one",
    r"; other frames go by name: .*": "",
    r"; force=True fences them": "",
    r"settings are locked; .*": "settings are locked",
    r"\bsettings=sl\.Settings\(max_ahead=None\)": "sl.Settings(max_ahead=None) from Python",
}
"""What a hint says in Python, as it is done here."""


def in_shell_words(text: str) -> str:
    for python, shell in SHELL_WORDS.items():
        text = re.sub(python, shell, text)
    return text


# -- looking -----------------------------------------------------------------------------------


def run_ls(options: argparse.Namespace) -> int:
    """List the streams; one that cannot be read is listed as damaged."""
    rows, code = [], 0
    with opened(options.lab, verify="never") as lab:  # only sizes and times are looked at
        for name in lab:
            try:
                rows.append(listed(lab[name]))
            except (sl.StreamlabError, OSError) as error:
                code = 1
                rows.append({"stream": name, "error": str(error).splitlines()[0]})
    if options.json:
        for row in rows:
            show_json(row)
        return code
    if not rows:
        print(f"{options.lab} has no stream yet")
        return code
    names = ["stream", "rows", "size", "segments", "offsets", "event times (UTC)", "last append"]
    right = [False, True, True, True, False, False, False]
    show(table(names, [shown_listing(row) for row in rows], right))
    for row in rows:
        if "error" in row:
            complain(sl.StreamlabError(row["error"], hint=f"streamlab verify {options.lab}"))
    return code


def listed(stream: sl.Stream) -> dict[str, Any]:
    """Return what a listing says of a stream."""
    stats = stream.stats()
    return {
        "stream": stream.name,
        "rows": stats.rows,
        "bytes": stats.bytes,
        "segments": stats.segments,
        "earliest_offset": stats.earliest_offset,
        "end_offset": stats.end_offset,
        "first_time": iso(first_time(stream)),
        "stream_time": iso(stats.stream_time),
        "append_time": iso(stats.append_time),
    }


def first_time(stream: sl.Stream) -> int | None:
    """Return the event time of the first row."""
    rows = stream.view(compacted="ok").follow("earliest", timeout=0, rows=1)
    batch = next(iter(rows), None)
    if batch is None:
        return None
    value = batch.column(stream.time or "_append_time").cast(pa.timestamp("us"), safe=False)
    return int(value.cast(pa.int64())[0].as_py())


def shown_listing(row: dict[str, Any]) -> list[str]:
    """Return the cells of a stream's line in `streamlab ls`."""
    if "error" in row:
        return [row["stream"], "damaged", *[""] * 5]
    return [
        row["stream"], f"{row['rows']:,}", format_size(row["bytes"]), f"{row['segments']:,}",
        f"[{row['earliest_offset']:,}, {row['end_offset']:,})",
        format_span(row["first_time"], row["stream_time"]), format_ago(row["append_time"]),
    ]  # fmt: skip


def run_info(options: argparse.Namespace) -> int:
    """Show everything about a stream, or about a lab."""
    with opened(options.lab) as lab:
        names = [options.stream] if options.stream else list(lab)
        found = [described(lab[name]) for name in names]
    if options.json:
        for content in found:
            show_json(content)
        return 0
    if not options.stream:
        print(f"lab {clean(str(Path(options.lab)))}: {counted(len(found), 'stream')}")
    for content in found:
        show([*([] if options.stream else [""]), *shown_info(content)])
    return 0


def described(stream: sl.Stream) -> dict[str, Any]:
    """Return everything there is to say of a stream."""
    stats = stream.stats()
    key = stream.key
    return {
        **listed(stream),
        "durable_offset": stats.durable_offset,
        "compacted_upto": stats.compacted_upto,
        "time": stream.time,
        "key": [key] if isinstance(key, str) else list(key or ()),
        "partitions": stream.partitions,
        "delay": stream.delay,
        "retention": stream.retention,
        "cleanup": stream.cleanup,
        "settings": stream.settings.stored(),
        "schema": [
            {"name": f.name, "type": str(f.type), "nullable": f.nullable} for f in stream.schema
        ],
    }


def shown_info(content: dict[str, Any]) -> Iterator[str]:
    """Return the lines of `streamlab info` for one stream."""
    settings = content["settings"]
    spread = f" over {content['partitions']} partitions" if content["partitions"] > 1 else ""
    pairs = {
        "stream": content["stream"],
        "rows": f"{content['rows']:,} at offsets [{content['earliest_offset']:,}, {content['end_offset']:,}), "
        f"durable below {content['durable_offset']:,}",
        "on disk": f"{format_size(content['bytes'])} in {counted(content['segments'], 'segment')} "
        f"of up to {format_size(settings['segment_bytes'])}, compression {settings['compression'] or 'none'}",
        "event time": f"{content['time'] or 'the append time'}, "
        f"{format_span(content['first_time'], content['stream_time'])}, delay {content['delay']}",
        "last append": f"{(content['append_time'] or 'never').replace('T', ' ')}",
        "key": (", ".join(content["key"]) or "none") + spread,
        "kept": f"{content['retention']}, cleanup {content['cleanup']}",
        "sync": settings["sync"] or "as the lab is opened (always)",
        "max ahead": settings["max_ahead"] or "no limit",
        "compaction": f"up to offset {content['compacted_upto']:,}, lag {settings['compact_lag']}, "
        f"tombstones kept {settings['delete_retention']}",
    }
    for name, value in pairs.items():
        yield f"{name:<12} {clean(value)}"
    yield ""
    fields = [
        (f["name"], f["type"], "" if f["nullable"] else "not null") for f in content["schema"]
    ]
    yield from table(["column", "type", ""], fields, [False] * 3)


def run_tail(options: argparse.Namespace) -> int:
    """Show the last rows, and with --follow what comes after them."""
    with opened(options.lab) as lab:
        stream = lab[options.stream].view(compacted="ok")
        first, end = stream.earliest_offset, stream.end_offset
        if options.start is None:
            count = 10 if options.n is None else options.n
            start, limit = max(first, end - count), None
            if start < stream.stats().compacted_upto:
                start = next(iter(stream.tail(count)["_offset"]), start)
        else:
            start, limit = place_of(stream, options.start), options.n
        printer = Printer(json_lines=options.json)
        if options.follow:
            for batch in stream.follow(start, rows=limit):
                printer.show(batch)
            return 0
        stop = max(end, start) if limit is None else min(end, start + limit)
        for batch in stream.offsets(start, stop).dataset().to_batches():
            printer.show(batch)
        printer.finish(options.stream)
    return 0


def place_of(stream: sl.Stream, text: str) -> int:
    """Return the offset that "earliest", "end", an offset or an instant means."""
    if text == "earliest":
        return stream.earliest_offset
    if text == "end":
        return stream.end_offset
    return int(text) if text.isdigit() else stream.find(text)


class Printer:
    """Prints batches one after the other, as lines of JSON or as one table."""

    def __init__(self, *, json_lines: bool) -> None:
        self.json_lines = json_lines
        self.layout: Any = None

    def show(self, batch: pa.RecordBatch) -> None:
        """Print the rows of a batch, at once."""
        if self.json_lines:
            sl.export(batch, binary_out(), format="jsonl")
        else:
            for at in range(0, batch.num_rows, 1000):
                rows = cells_of(batch.slice(at, 1000))
                if self.layout is None:
                    self.layout = columns_of(batch.schema)
                    self.layout.make_room(rows)
                    show(self.layout.header())
                show(map(self.layout.line, rows))
        if sys.stdout is not None:
            sys.stdout.flush()

    def finish(self, name: str) -> None:
        if self.layout is None and not self.json_lines:
            print(f"stream {name} has no rows there", file=sys.stderr)


def run_sql(options: argparse.Namespace) -> int:
    """Run one SELECT and show its rows."""
    with opened(options.lab) as lab:
        view = lab.as_of(options.as_of) if options.as_of else lab
        show_rows(view.sql(options.query).to_arrow_reader(8192), options)
    return 0


def run_query(options: argparse.Namespace) -> int:
    """Answer a windowed query over history, run it into a stream, or explain it."""
    with opened(options.lab, write=bool(options.into)) as lab:
        query = (lab.as_of(options.as_of) if options.as_of else lab).query(options.query)
        if options.explain:
            print(query.explain())
        elif options.into:
            job = query.run(options.into, follow=False).wait(caught_up=False)
            print(job)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of late rows, said below in one line
                table = query.collect("final" if options.final else "all").to_arrow()
            show_rows(pa.RecordBatchReader.from_batches(table.schema, table.to_batches()), options)
            late = query.late().height
            if late:
                print(f"{late:,} late rows are in no window; delay => keeps more", file=sys.stderr)
    return 0


def show_rows(reader: pa.RecordBatchReader, options: argparse.Namespace) -> None:
    """Show the rows of a result as a table, JSON lines or CSV."""
    limit = options.n if options.n is not None else 0 if options.json or options.csv else SHOWN_ROWS
    rows = Limited(reader, limit)
    kind = "jsonl" if options.json else "csv"
    if options.json or options.csv:
        limited = pa.RecordBatchReader.from_batches(reader.schema, iter(rows))
        sl.export(limited, binary_out(), format=kind)
    else:
        printer = Printer(json_lines=False)
        for batch in rows:
            printer.show(batch)
        if printer.layout is None:
            show(columns_of(reader.schema).header())
    if rows.cut:
        print(f"only the first {limit:,} rows are shown; -n 0 shows all", file=sys.stderr)


class Limited:
    """The first rows of a reader; ``cut`` says whether there are more. 0 is no limit."""

    def __init__(self, reader: pa.RecordBatchReader, limit: int) -> None:
        self.reader = reader
        self.limit = limit
        self.cut = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        left = self.limit
        for batch in self.reader:
            if self.limit and batch.num_rows > left:
                self.cut = True
                if left:
                    yield batch.slice(0, left)
                return
            left -= batch.num_rows
            if batch.num_rows:
                yield batch


# -- making and filling ------------------------------------------------------------------------


def created(options: argparse.Namespace) -> dict[str, Any]:
    """Return what `Lab.create` is told of a new stream."""
    given: dict[str, Any] = {}
    if options.time:
        given["time"] = options.time
    if options.key:
        given["key"] = tuple(part.strip() for part in options.key.split(","))
    if options.retention:
        given["retention"] = tuple(part.strip() for part in options.retention.split(","))
    for name in ("partitions", "delay", "cleanup"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    return given


def run_new(options: argparse.Namespace) -> int:
    """Make a stream, and the lab if there is none."""
    like = None if options.like is None else sl.read_file(options.like).schema
    schema = parse_schema(options.schema) if like is None else like
    with sl.open(Path(options.lab).expanduser()) as lab:
        stream = lab.create(options.stream, schema, **created(options))
        show(shown_info(described(stream)))
    return 0


def run_append(options: argparse.Namespace) -> int:
    """Append the rows of a file or of standard input."""
    with opened(options.lab, write=True) as lab:
        if options.stream not in lab:
            raise no_stream(lab, options)
        stream = lab[options.stream]
        before = stream.end_offset
        if options.file != "-":
            kind = options.format
            offsets = stream.append(sl.read_file(options.file, format=kind, schema=stream.schema))
        elif (options.format or "jsonl") == "jsonl":
            if sys.stdin.isatty():
                print("one JSON object on each line; Ctrl-D ends", file=sys.stderr)
            live = Live(stream)
            offsets = range(before, before)
            for part in live.run(sys.stdin.buffer):
                offsets = range(before, part.stop)
        else:
            source = sl.read_file(sys.stdin.buffer, format=options.format, schema=stream.schema)
            offsets = stream.append(source)
    if options.json:
        show_json(
            {
                "stream": options.stream,
                "rows": len(offsets),
                "start": offsets.start,
                "stop": offsets.stop,
            }
        )
    else:
        print(
            f"{rows_of(len(offsets))} appended to {options.stream}: [{offsets.start:,}, {offsets.stop:,})"
        )
    return 0


def no_stream(lab: sl.Lab, options: argparse.Namespace) -> sl.StreamNotFound:
    """Return the error that there is no such stream, with how to make it."""
    try:
        lab[options.stream]
    except sl.StreamNotFound as error:
        hint = f"{error.hint} streamlab new, or streamlab import, makes one" if len(lab) else None
        return sl.StreamNotFound(
            error.message,
            hint=hint or f'streamlab new {options.lab} {options.stream} --schema "..."',
        )
    raise AssertionError


def rows_of(count: int) -> str:
    return counted(count, "row")


class Live:
    """Appends lines of JSON as they come, together what is there together.

    A bad line ends it; the lines before it are appended.
    """

    def __init__(self, stream: sl.Stream) -> None:
        self.stream = stream
        self.lines = 0

    def run(self, source: Any) -> Iterator[range]:
        """Append what there is to read, until its end; yield the offsets of each part."""
        rest = b""
        if hasattr(source, "read1"):
            parts = iter(lambda: source.read1(1 << 20), b"")
        else:
            parts = iter([source.read()])
        for data in parts:
            if not self.lines and (rest + data).lstrip()[:1] == b"[":  # one array: as a whole
                whole = io.BytesIO(rest + data + source.read())
                yield self.append(whole.getvalue())
                return
            text = rest + data
            cut = text.rfind(b"\n") + 1
            rest = text[cut:]
            if text[:cut].strip():
                yield from self.take(text[:cut])
        if rest.strip():
            yield from self.take(rest)

    def append(self, text: bytes) -> range:
        rows = sl.read_file(io.BytesIO(text), format="jsonl", schema=self.stream.schema)
        return self.stream.append(rows)

    def take(self, text: bytes) -> Iterator[range]:
        """Append whole lines; if one is bad, those before it, and then say which it is."""
        try:
            yield self.append(text)
        except sl.SchemaMismatch:
            for line in text.splitlines(keepends=True):
                self.lines += 1
                if not line.strip():
                    continue
                try:
                    yield self.append(line)
                except sl.SchemaMismatch as error:
                    self.refuse(error)
        self.lines += text.count(b"\n")

    def refuse(self, error: sl.SchemaMismatch) -> NoReturn:
        reason = error.message.split("line 1: ", 1)[-1]
        raise sl.SchemaMismatch(
            f"line {self.lines} of standard input: {reason}; the lines before it are appended",
            hint=error.hint,
        ) from None


def run_import(options: argparse.Namespace) -> int:
    """Load files into a stream, making it if it is not there."""
    given, path = created(options), Path(options.lab).expanduser()
    first = sl.read_file(options.files[0], progress=None)  # before anything is made
    with sl.open(path) as lab:
        new = options.stream not in lab
        if new:
            stream = lab.create(options.stream, first, **given)
            count, files = len(stream), options.files[1:]
        else:
            stream, count, files = lab[options.stream], 0, options.files
            check_given(stream, given)
        for file in files:
            source = sl.read_file(file, schema=stream.schema, progress=None)
            count += len(stream.append(source))
        if options.json:
            show_json(
                {
                    "stream": options.stream,
                    "rows": count,
                    "created": new,
                    "end_offset": stream.end_offset,
                }
            )
        else:
            made = " (new)" if new else ""
            print(
                f"{rows_of(count)} imported into {options.stream}{made}, which ends at {stream.end_offset:,}"
            )
    return 0


def check_given(stream: sl.Stream, given: dict[str, Any]) -> None:
    """Refuse options of a new stream for one that is there and is otherwise.

    Raises:
        StreamExists: naming the first that differs.
    """
    key = stream.key
    have = {
        "time": stream.time,
        "key": (key,) if isinstance(key, str) else key,
        "partitions": stream.partitions,
        "cleanup": stream.cleanup,
    }
    for name, value in given.items():
        if name not in have or have[name] != value:
            raise sl.StreamExists(
                f'there is a stream "{stream.name}" already, and --{name} is of a new one',
                hint=f"leave --{name} out to add to it as it is",
            )


# -- taking out, keeping -----------------------------------------------------------------------


def run_export(options: argparse.Namespace) -> int:
    """Write a stream, or a stretch of it, to a file."""
    with opened(options.lab) as lab:
        stream: sl.Stream = lab[options.stream]
        if options.compacted:
            stream = stream.view(compacted="ok")
        if options.as_of:
            stream = stream.as_of(options.as_of)
        if options.offsets:
            stream = stream.offsets(*options.offsets)
        if options.between:
            stream = stream.between(*options.between)
        by = (
            [part.strip() for part in options.partition_by.split(",")]
            if options.partition_by
            else None
        )
        count = sl.export(
            stream,
            options.path,
            partition_by=by,
            system=not options.no_system,
            overwrite=options.overwrite,
        )
    if options.json:
        show_json({"path": options.path, "rows": count})
    else:
        print(f"{rows_of(count)} written to {options.path}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Read every byte and report; with --salvage copy what is sound."""
    folder = Path(options.lab).expanduser()
    if not (folder / "lab.json").exists() and not (folder / "streams").is_dir():
        raise no_lab(folder)
    report = sl.salvage(folder, options.salvage) if options.salvage else sl.verify_lab(folder)
    if options.json:
        show_json({
            "ok": report.ok, "streams": report.streams, "segments": report.segments, "rows": report.rows,
            "bytes": report.bytes, "problems": [p._asdict() for p in report.problems],
            "gaps": [g._asdict() for g in report.gaps], "moves": [m._asdict() for m in report.moves],
            "notes": list(report.notes),
        })  # fmt: skip
        return 0 if report.ok else 1
    show(clean(line) for line in repr(report).splitlines())
    if options.salvage:
        print(f"{rows_of(report.rows)} saved into {options.salvage}; the lab itself is as it was")
    elif not report.ok:
        print(
            f"Hint: streamlab verify {options.lab} --salvage DIR copies what is sound",
            file=sys.stderr,
        )
    return 0 if report.ok else 1


def run_demo(options: argparse.Namespace) -> int:
    from streamlab.demo import run

    run(options.folder, seconds=options.seconds, rate=options.rate)
    return 0


VERBS = {
    "demo": run_demo,
    "new": run_new,
    "append": run_append,
    "import": run_import,
    "ls": run_ls,
    "info": run_info,
    "tail": run_tail,
    "sql": run_sql,
    "query": run_query,
    "export": run_export,
    "verify": run_verify,
    **cli_time.VERBS,
}

if __name__ == "__main__":
    sys.exit(main())
