"""The command line: a thin layer over ``import streamlab as sl``, for shells and scripts.

Each verb does one thing and prints a readable table, or with ``--json`` one JSON object for each
row. Exit codes: 0 done; 1 a mistake in what was asked, or damaged data, said on stderr without a
traceback (``STREAMLAB_DEBUG=1`` shows it); 2 usage; 130 Ctrl-C. A closed pipe ends it silently.

Only `new` and `import` make a lab; `append`, `new`, `import` and `demo` are all that write to one.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import itertools
import json
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa

import streamlab as sl
from streamlab.cli_text import (
    cells_of,
    clean,
    columns_of,
    format_ago,
    format_size,
    format_span,
    format_time,
    parse_schema,
    table,
)

__all__ = ["main"]

SHOWN_ROWS = 100
"""A query's table ends after so many rows unless -n says otherwise."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
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
    elif not isinstance(error, sl.StreamlabError | ValueError | TypeError):
        text = f"{type(error).__name__}: {text}\nHint: STREAMLAB_DEBUG=1 shows where"
    lines = [clean(line) for line in text.splitlines()] or [type(error).__name__]
    print("\n".join([f"streamlab: {lines[0]}", *lines[1:]]), file=sys.stderr)


# -- opening -----------------------------------------------------------------------------------


def opened(path: str, *, write: bool = False, verify: Any = "first-touch") -> sl.Lab:
    """Open a lab that is there; never make one.

    Raises:
        StreamlabError: there is none.
    """
    folder = Path(path).expanduser()
    if not (folder / "lab.json").exists():
        raise no_lab(folder)
    return sl.open(folder, read_only=not write, verify=verify)


def no_lab(folder: Path) -> sl.StreamlabError:
    inside = sorted(p.parent for p in folder.glob("*/lab.json")) if folder.is_dir() else []
    hint = f'make one: streamlab new {folder} STREAM --schema "ts timestamp, price double"'
    if inside:
        hint = f"there is one at {inside[0]}"
    return sl.StreamlabError(f"there is no lab at {folder}", hint=hint)


def show(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def show_json(content: Any) -> None:
    print(json.dumps(content))


def binary_out() -> BinaryIO:
    """Return standard output for bytes, what was printed before having gone out.

    Raises:
        BrokenPipeError: it is closed.
    """
    if sys.stdout is None:
        raise BrokenPipeError
    sys.stdout.flush()
    return sys.stdout.buffer


def iso(micros: int | None) -> str | None:
    return None if micros is None else format_time(micros).replace(" ", "T")


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
    batch = next(iter(stream.follow("earliest", timeout=0, rows=1)), None)
    if batch is None:
        return None
    value = batch.column(stream.time or "_append_time").cast(pa.timestamp("us"), safe=False)
    return int(value.cast(pa.int64())[0].as_py())


def shown_listing(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["stream"], "damaged", *[""] * 5]
    return [
        row["stream"], f"{row['rows']:,}", format_size(row["bytes"]), f"{row['segments']:,}",
        f"[{row['earliest_offset']:,}, {row['end_offset']:,})",
        format_span(row["first_time"], row["stream_time"]), format_ago(row["append_time"]),
    ]  # fmt: skip


def run_info(options: argparse.Namespace) -> int:
    with opened(options.lab) as lab:
        names = [options.stream] if options.stream else list(lab)
        found = [described(lab[name]) for name in names]
    if options.json:
        for content in found:
            show_json(content)
        return 0
    if not options.stream:
        print(f"lab {clean(str(Path(options.lab)))}: {len(found)} stream{'s' * (len(found) != 1)}")
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
    settings = content["settings"]
    spread = f" over {content['partitions']} partitions" if content["partitions"] > 1 else ""
    pairs = {
        "stream": content["stream"],
        "rows": f"{content['rows']:,} at offsets [{content['earliest_offset']:,}, {content['end_offset']:,}), "
        f"durable below {content['durable_offset']:,}",
        "on disk": f"{format_size(content['bytes'])} in {content['segments']:,} segments "
        f"of {format_size(settings['segment_bytes'])}, compression {settings['compression'] or 'none'}",
        "event time": f"{content['time'] or 'the append time'}, "
        f"{format_span(content['first_time'], content['stream_time'])}, delay {content['delay']}",
        "last append": f"{(content['append_time'] or 'never').replace('T', ' ')}",
        "key": (", ".join(content["key"]) or "none") + spread,
        "kept": f"{content['retention']}, cleanup {content['cleanup']}",
        "sync": settings["sync"] or "as the lab is opened (always)",
        "max ahead": settings["max_ahead"] or "no limit",
        "compaction": f"lag {settings['compact_lag']}, tombstones kept {settings['delete_retention']}",
    }
    for name, value in pairs.items():
        yield f"{name:<12} {clean(value)}"
    yield ""
    fields = [(f["name"], f["type"], "" if f["nullable"] else "not null") for f in content["schema"]]
    yield from table(["column", "type", ""], fields, [False] * 3)


def run_tail(options: argparse.Namespace) -> int:
    with opened(options.lab) as lab:
        stream = lab[options.stream]
        first, end = stream.earliest_offset, stream.end_offset
        if options.start is None:
            count = 10 if options.n is None else options.n
            start, limit = max(first, end - count), None
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
    with opened(options.lab) as lab:
        view = lab.as_of(options.as_of) if options.as_of else lab
        relation = view.sql(options.query)
        limit = options.n if options.n is not None else 0 if options.json or options.csv else SHOWN_ROWS
        reader = relation.to_arrow_reader(8192)
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
    return 0


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
    schema = parse_schema(options.schema) if options.schema else sl.read_file(options.like).schema
    with sl.open(Path(options.lab).expanduser()) as lab:
        stream = lab.create(options.stream, schema, **created(options))
        show(shown_info(described(stream)))
    return 0


def run_append(options: argparse.Namespace) -> int:
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
                offsets = range(offsets.start if len(offsets) else part.start, part.stop)
        else:
            source = sl.read_file(sys.stdin.buffer, format=options.format, schema=stream.schema)
            offsets = stream.append(source)
    if options.json:
        show_json({"stream": options.stream, "rows": len(offsets), "start": offsets.start, "stop": offsets.stop})
    else:
        print(f"{rows_of(len(offsets))} appended to {options.stream}: [{offsets.start:,}, {offsets.stop:,})")
    return 0


def no_stream(lab: sl.Lab, options: argparse.Namespace) -> sl.StreamNotFound:
    try:
        lab[options.stream]
    except sl.StreamNotFound as error:
        hint = f"{error.hint} streamlab new, or streamlab import, makes one" if len(lab) else None
        return sl.StreamNotFound(
            error.message, hint=hint or f'streamlab new {options.lab} {options.stream} --schema "..."'
        )
    raise AssertionError


def rows_of(count: int) -> str:
    return f"{count:,} row" + "s" * (count != 1)


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
            show_json({"stream": options.stream, "rows": count, "created": new, "end_offset": stream.end_offset})
        else:
            made = " (new)" if new else ""
            print(f"{rows_of(count)} imported into {options.stream}{made}, which ends at {stream.end_offset:,}")
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
    with opened(options.lab) as lab:
        stream: sl.Stream = lab[options.stream]
        if options.as_of:
            stream = stream.as_of(options.as_of)
        if options.offsets:
            stream = stream.offsets(*options.offsets)
        if options.between:
            stream = stream.between(*options.between)
        by = [part.strip() for part in options.partition_by.split(",")] if options.partition_by else None
        count = sl.export(
            stream, options.path, partition_by=by, system=not options.no_system, overwrite=options.overwrite
        )
    if options.json:
        show_json({"path": options.path, "rows": count})
    else:
        print(f"{rows_of(count)} written to {options.path}")
    return 0


def run_verify(options: argparse.Namespace) -> int:
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
        print(f"Hint: streamlab verify {options.lab} --salvage DIR copies what is sound", file=sys.stderr)
    return 0 if report.ok else 1


def run_demo(options: argparse.Namespace) -> int:
    from streamlab.demo import run

    run(options.folder, seconds=options.seconds, rate=options.rate)
    return 0


# -- what there is to type ---------------------------------------------------------------------

GROUPS = {
    "start": {"demo": "record this machine, run windows over it, look back: two minutes"},
    "make and fill": {
        "new": "make a stream, and the lab if there is none",
        "append": "append rows from a file or standard input to a stream",
        "import": "load files into a stream, making it if it is not there",
    },
    "look": {
        "ls": "list the streams of a lab",
        "info": "show everything about a stream: columns, settings, size",
        "tail": "show the last rows of a stream, and follow it",
        "sql": "run one SELECT over the streams of a lab",
    },
    "take out and keep": {
        "export": "write a stream to Parquet, CSV, JSON lines or Arrow",
        "verify": "read every byte of a lab and report damage; salvage what is sound",
    },
}


def overview() -> str:
    lines = ["A laboratory for event streams: record, look back, query, replay.", ""]
    for group, verbs in GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {verb:<8} {text}" for verb, text in verbs.items()]
    lines += ["", "streamlab COMMAND --help says more, with an example."]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("streamlab", description=overview(), formatter_class=raw)
    top.add_argument("--version", action="version", version=f"streamlab {sl.__version__}")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    summaries = {verb: text for group in GROUPS.values() for verb, text in group.items()}
    for name, (run, add, text, example) in COMMANDS.items():
        about = f"{summaries[name].capitalize()}.\n\n{textwrap.fill(text, 92)}"
        verb = verbs.add_parser(
            name, description=about, epilog=f"example:\n  {example}", formatter_class=raw
        )
        add(verb)
        verb.set_defaults(run=run)
    return top


def _lab(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("lab", metavar="LAB", help="the lab's folder")


def _stream(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("stream", metavar="STREAM", help="the stream's name")


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON, one object on a line")


def _creation(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--time", metavar="COLUMN", help="the event-time column; without it, append time")
    verb.add_argument("--key", metavar="COLUMN[,COLUMN]", help="the column or columns of the key")
    verb.add_argument("--partitions", type=int, metavar="N", help="spread keys over N partitions")
    verb.add_argument("--delay", metavar="5s", help="how far out of order events may come")
    verb.add_argument("--retention", metavar="7d,10GB", help="how long rows are kept: age, size or both")
    verb.add_argument("--cleanup", choices=["delete", "compact"], help="what happens to old rows")


def _new(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument("--schema", metavar="TEXT", help='"ts timestamp, symbol string not null, price double"')
    which.add_argument("--like", metavar="FILE", help="take the columns of a file, not its rows")
    _creation(verb)


def _append(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument("file", metavar="FILE", nargs="?", default="-", help="- is standard input (default)")
    verb.add_argument("--format", choices=["csv", "tsv", "jsonl", "parquet", "arrow"],
                      help="if the ending does not say it; standard input is jsonl")  # fmt: skip
    _json(verb)


def _import(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument("files", metavar="FILE", nargs="+", help="a file, a folder of Parquet, a pattern")
    _creation(verb)
    _json(verb)


def _ls(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    _json(verb)


def _info(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("stream", metavar="STREAM", nargs="?", help="the stream's name; without it, all")
    _json(verb)


def count(text: str) -> int:
    """Return a number of rows."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than no rows")
    return number


def _tail(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument("-n", type=count, metavar="ROWS", help="how many rows (10; with --from all)")
    verb.add_argument("-f", "--follow", action="store_true", help="go on with the rows that come; Ctrl-C ends")
    verb.add_argument("--from", dest="start", metavar="WHERE", help='"earliest", "end", an offset, or an event time')
    _json(verb)


def _sql(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("query", metavar="SELECT", help="each stream is a table under its name")
    verb.add_argument("--as-of", metavar="TIME", help="every stream as it was at this append time")
    how = verb.add_mutually_exclusive_group()
    _json(how)  # type: ignore[arg-type]
    how.add_argument("--csv", action="store_true", help="print CSV")
    verb.add_argument("-n", type=count, metavar="ROWS", help=f"at most so many rows (table: {SHOWN_ROWS}); 0: all")


def _export(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument("path", metavar="PATH", help="ends in .parquet, .csv, .tsv, .jsonl or .arrow")
    verb.add_argument("--between", nargs=2, metavar=("START", "STOP"), help="event times in [START, STOP)")
    verb.add_argument("--offsets", nargs=2, type=int, metavar=("START", "STOP"), help="offsets in [START, STOP)")
    verb.add_argument("--as-of", metavar="TIME", help="the stream as it was at this append time")
    verb.add_argument("--partition-by", metavar="COLUMN[,COLUMN]", help="a folder of Parquet, one subfolder per value")
    verb.add_argument("--no-system", action="store_true", help="leave out _partition, _offset, _append_time")
    verb.add_argument("--overwrite", action="store_true", help="replace what is there")
    _json(verb)


def _verify(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("--salvage", metavar="DIR", help="copy what is sound into a new lab there")
    _json(verb)


def _demo(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--folder", type=Path, metavar="DIR", help="where to (streamlab-demo; never replaced)")
    verb.add_argument("--seconds", type=float, default=12.0, metavar="N", help="how long to record (12)")
    verb.add_argument("--rate", type=float, default=20.0, metavar="N", help="samples a second (20)")


COMMANDS: dict[str, tuple[Any, Any, str, str]] = {
    "demo": (run_demo, _demo, "It needs no network and no server, and says what it compares.",
             "streamlab demo --seconds 5"),
    "new": (run_new, _new, "Types are called as in SQL or Arrow: int64, double, string, bool, timestamp (UTC), "
            "date, decimal(18, 4), list<T>, struct<name: T>, map<K, V>; a column is nullable unless NOT NULL.",
            'streamlab new my-lab trades --schema "ts timestamp, symbol string, price double" --time ts --key symbol'),
    "append": (run_append, _append, "A file is appended as a whole or not at all; its text is parsed into the "
               "stream's types. Lines of JSON on standard input are appended as they come; a bad line ends it.",
               """echo '{"ts": "2026-01-05T09:30:00Z", "symbol": "A", "price": 1.5}' | streamlab append my-lab trades"""),
    "import": (run_import, _import, "Parquet, CSV, TSV, JSON lines (also .gz, .zst) and Arrow, told by the ending. "
               "The types of a new stream are those of the first file; text is looked at to tell them.",
               "streamlab import my-lab trades trades-*.parquet --time ts --key symbol --delay 5s"),
    "ls": (run_ls, _ls, "Rows, size on disk, segments, offsets, event times and the last append of each.",
           "streamlab ls my-lab"),
    "info": (run_info, _info, "Without a stream, of all streams.", "streamlab info my-lab trades"),
    "tail": (run_tail, _tail, "With --from, the rows from there on. With -f it goes on with the rows that come, "
             "whichever process appends them.", "streamlab tail my-lab trades -n 5 -f"),
    "sql": (run_sql, _sql, "DuckDB's dialect, locked down: no files, no network, no settings. Rows have "
            "_partition, _offset and _append_time too.",
            'streamlab sql my-lab "SELECT symbol, count(*) AS n FROM trades GROUP BY ALL ORDER BY n DESC"'),
    "export": (run_export, _export, "The target appears when it is whole. The ending says the format; text may be "
               "compressed (.csv.gz).",
               "streamlab export my-lab trades trades.parquet --between 2026-01-05T09:30Z 2026-01-05T10:00Z"),
    "verify": (run_verify, _verify, "Exit code 1 if anything is damaged. With --salvage what is sound goes into a "
               "new lab, and the report says which offsets are lost and where the others went.",
               "streamlab verify my-lab --salvage my-lab-saved"),
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
