"""What there is to type: the verbs of the command line, their options, and what ``--help`` says."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import streamlab as sl

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["SHOWN_ROWS", "parser"]

SHOWN_ROWS = 100
"""A query's table ends after so many rows unless -n says otherwise."""

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
        "query": "answer a windowed query, run it into a stream, or explain it",
        "replay": "play streams back at any speed, by one clock",
        "groups": "show how far consumer groups have come, or move one",
    },
    "take out and keep": {
        "export": "write a stream to Parquet, CSV, JSON lines or Arrow",
        "verify": "read every byte of a lab and report damage; salvage what is sound",
        "fork": "make a stream that shares the history of another one",
        "pack": "write streams into one file to give away, with checksums",
        "unpack": "make a lab of what was packed, every byte checked",
        "compact": "keep only the last row of each key of streams made for it",
    },
}


def overview() -> str:
    """Return the page of `streamlab --help`: the verbs, in groups."""
    lines = ["A laboratory for event streams: record, look back, query, replay.", ""]
    for group, verbs in GROUPS.items():
        lines.append(f"{group}:")
        lines += [f"  {verb:<8} {text}" for verb, text in verbs.items()]
    lines += ["", "streamlab COMMAND --help says more, with an example."]
    return "\n".join(lines)


def parser(runs: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """Return the parser of all verbs; ``options.run`` is what the verb does."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser("streamlab", description=overview(), formatter_class=raw)
    top.add_argument("--version", action="version", version=f"streamlab {sl.__version__}")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, help=argparse.SUPPRESS)
    for summaries in GROUPS.values():
        for name, summary in summaries.items():
            verb = VERBS[name]
            about = f"{summary[0].upper()}{summary[1:]}.\n\n{textwrap.fill(' '.join(verb.text.split()), 92)}"
            epilog = f"example:\n  {verb.example}"
            added = verbs.add_parser(name, description=about, epilog=epilog, formatter_class=raw)
            verb.add(added)
            added.set_defaults(run=runs[name])
    return top


def _lab(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("lab", metavar="LAB", help="the lab's folder")


def _stream(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("stream", metavar="STREAM", help="the stream's name")


def _json(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="print JSON, one object on a line")


def _creation(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--time", metavar="COLUMN", help="the event-time column; without it, append time"
    )
    verb.add_argument("--key", metavar="COLUMN[,COLUMN]", help="the column or columns of the key")
    verb.add_argument("--partitions", type=int, metavar="N", help="spread keys over N partitions")
    verb.add_argument("--delay", metavar="5s", help="how far out of order events may come")
    verb.add_argument(
        "--retention", metavar="7d,10GB", help="how long rows are kept: age, size or both"
    )
    verb.add_argument("--cleanup", choices=["delete", "compact"], help="what happens to old rows")


def _new(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    which = verb.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--schema", metavar="TEXT", help='"ts timestamp, symbol string not null, price double"'
    )
    which.add_argument("--like", metavar="FILE", help="take the columns of a file, not its rows")
    _creation(verb)


def _append(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument(
        "file", metavar="FILE", nargs="?", default="-", help="- is standard input (default)"
    )
    verb.add_argument("--format", choices=["csv", "tsv", "jsonl", "parquet", "arrow"],
                      help="if the ending does not say it; standard input is jsonl")  # fmt: skip
    _json(verb)


def _import(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument(
        "files", metavar="FILE", nargs="+", help="a file, a folder of Parquet, a pattern"
    )
    _creation(verb)
    _json(verb)


def _ls(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    _json(verb)


def _info(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument(
        "stream", metavar="STREAM", nargs="?", help="the stream's name; without it, all"
    )
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
    verb.add_argument(
        "-f", "--follow", action="store_true", help="go on with the rows that come; Ctrl-C ends"
    )
    verb.add_argument(
        "--from",
        dest="start",
        metavar="WHERE",
        help='"earliest", "end", an offset, or an event time',
    )
    _json(verb)


def _sql(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("query", metavar="SELECT", help="each stream is a table under its name")
    verb.add_argument("--as-of", metavar="TIME", help="every stream as it was at this append time")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON, one object on a line")
    how.add_argument("--csv", action="store_true", help="print CSV")
    verb.add_argument(
        "-n", type=count, metavar="ROWS", help=f"at most so many rows (table: {SHOWN_ROWS}); 0: all"
    )


def _query(verb: argparse.ArgumentParser) -> None:
    _sql(verb)
    verb.add_argument("--final", action="store_true", help="closed windows only")
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--into", metavar="STREAM", help="add what is new of the results to a stream")
    what.add_argument(
        "--explain", action="store_true", help="say how it is answered, and who waits"
    )


def speed(text: str) -> float:
    """Return a speed: 60, 60x, inf."""
    value = float(text.removesuffix("x"))
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _replay(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("streams", metavar="STREAM", nargs="+", help="one or several, by one clock")
    verb.add_argument("--start", metavar="TIME", help="play from this instant on (the first row)")
    verb.add_argument("--stop", metavar="TIME", help="and up to this one (the end there is now)")
    verb.add_argument(
        "--speed", type=speed, default=1.0, metavar="N", help="how many times as fast (1); inf"
    )
    verb.add_argument("--max-gap", metavar="2s", help="no silence lasts longer than this")
    verb.add_argument(
        "--clock",
        choices=["event", "append"],
        default="event",
        help="which time it goes by (event)",
    )
    _json(verb)


def _groups(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("group", metavar="GROUP", nargs="?", help="one group; without it, all")
    where = verb.add_mutually_exclusive_group()
    where.add_argument(
        "--reset-to", metavar="WHERE", help='"earliest", "end", an offset, or an instant'
    )
    where.add_argument(
        "--shift",
        metavar="ROWS|1h",
        help="rows of each partition, or stream time; --shift=-1h: back",
    )
    verb.add_argument("--stream", metavar="STREAM", help="move the group in this stream only")
    how = verb.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="only show the moves (default)")
    how.add_argument("--yes", action="store_true", help="move the group")
    _json(verb)


def _export(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument("path", metavar="PATH", help="ends in .parquet, .csv, .tsv, .jsonl or .arrow")
    verb.add_argument(
        "--between", nargs=2, metavar=("START", "STOP"), help="event times in [START, STOP)"
    )
    verb.add_argument(
        "--offsets", nargs=2, type=int, metavar=("START", "STOP"), help="offsets in [START, STOP)"
    )
    verb.add_argument("--as-of", metavar="TIME", help="the stream as it was at this append time")
    verb.add_argument(
        "--partition-by",
        metavar="COLUMN[,COLUMN]",
        help="a folder of Parquet, one subfolder per value",
    )
    verb.add_argument(
        "--no-system", action="store_true", help="leave out _partition, _offset, _append_time"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace what is there")
    verb.add_argument(
        "--compacted", action="store_true", help="take what compaction left of older rows"
    )
    _json(verb)


def _compact(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument(
        "streams", metavar="STREAM", nargs="*", help='all with cleanup "compact" if none is named'
    )
    _json(verb)


def _verify(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("--salvage", metavar="DIR", help="copy what is sound into a new lab there")
    _json(verb)


def _fork(verb: argparse.ArgumentParser) -> None:
    _stream(verb)
    verb.add_argument("name", metavar="NAME", help="the name of the new stream")
    verb.add_argument("--at", metavar="WHERE", help="an offset or an append time; without it, now")
    _json(verb)


def _pack(verb: argparse.ArgumentParser) -> None:
    _lab(verb)
    verb.add_argument("path", metavar="ARCHIVE", help="the file to write, such as trades.zip")
    verb.add_argument("streams", metavar="STREAM", nargs="*", help="without one, all")
    verb.add_argument("--as-of", metavar="TIME", help="every stream as it was at this append time")
    verb.add_argument(
        "--offsets", nargs=2, type=int, metavar=("START", "STOP"), help="offsets in [START, STOP)"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace what is there")
    _json(verb)


def _unpack(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("archive", metavar="ARCHIVE", help="a file that pack wrote")
    verb.add_argument(
        "lab", metavar="LAB", nargs="?",
        help="a new folder, or a lab that is given the streams; without it, named like the archive",
    )  # fmt: skip
    _json(verb)


def _demo(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--folder", type=Path, metavar="DIR", help="where to (streamlab-demo; never replaced)"
    )
    verb.add_argument(
        "--seconds", type=float, default=12.0, metavar="N", help="how long to record (12)"
    )
    verb.add_argument("--rate", type=float, default=20.0, metavar="N", help="samples a second (20)")


class Verb(NamedTuple):
    """A verb's options, what its help says besides, and an example."""

    add: Callable[[argparse.ArgumentParser], None]
    text: str
    example: str


VERBS = {
    "demo": Verb(
        _demo,
        "It needs no network and no server, and says what it compares.",
        "streamlab demo --seconds 5",
    ),
    "new": Verb(
        _new,
        """Types are called as in SQL or Arrow: int64, double, string, bool, timestamp (UTC), date,
        decimal(18, 4), list<T>, struct<name: T>, map<K, V>; a column is nullable unless NOT NULL.""",
        'streamlab new my-lab trades --schema "ts timestamp, symbol string, price double" --time ts',
    ),
    "append": Verb(
        _append,
        """A file is appended as a whole or not at all; its text is parsed into the stream's types.
        Lines of JSON on standard input are appended as they come; a bad line ends it.""",
        """echo '{"ts": "2026-01-05T09:30Z", "symbol": "A", "price": 1.5}' | streamlab append my-lab trades""",
    ),
    "import": Verb(
        _import,
        """Parquet, CSV, TSV, JSON lines (also .gz, .zst) and Arrow, told by the ending. The types of
        a new stream are those of the first file; text is looked at to tell them.""",
        "streamlab import my-lab trades trades-*.parquet --time ts --key symbol --delay 5s",
    ),
    "ls": Verb(
        _ls,
        "Rows, size on disk, segments, offsets, event times and the last append of each.",
        "streamlab ls my-lab",
    ),
    "info": Verb(_info, "Without a stream, of all streams.", "streamlab info my-lab trades"),
    "tail": Verb(
        _tail,
        """With --from, the rows from there on. With -f it goes on with the rows that come, whichever
        process appends them.""",
        "streamlab tail my-lab trades -n 5 -f",
    ),
    "sql": Verb(
        _sql,
        """DuckDB's dialect, locked down: no files, no network, no settings. Rows have _partition,
        _offset and _append_time too.""",
        'streamlab sql my-lab "SELECT symbol, count(*) AS n FROM trades GROUP BY ALL ORDER BY n DESC"',
    ),
    "query": Verb(
        _query,
        """SQL with tumble, hop, cumulate or session in FROM. Open windows are shown too, _final
        tells; with --into each result gets into the stream once, however often this is run.""",
        'streamlab query my-lab "SELECT window_start, window_end, symbol, count(*) AS n FROM '
        "tumble(trades, INTERVAL '1 minute') GROUP BY ALL\"",
    ),
    "replay": Verb(
        _replay,
        """Prints each row when the clock comes to it, in the order of stream time, then of the names
        given; Ctrl-C ends. With several streams each row has its stream's name.""",
        "streamlab replay my-lab trades quotes --start 2026-01-05T09:30Z --speed 60 --max-gap 2s",
    ),
    "groups": Verb(
        _groups,
        """Position, end, rows behind and the owner's process of each partition. A group is moved
        only with --yes, and while it has no members.""",
        "streamlab groups my-lab billing --shift=-1h",
    ),
    "export": Verb(
        _export,
        """The target appears when it is whole. The ending says the format; text may be compressed
        (.csv.gz).""",
        "streamlab export my-lab trades trades.parquet --between 2026-01-05T09:30Z 2026-01-05T10:00Z",
    ),
    "verify": Verb(
        _verify,
        """Exit code 1 if anything is damaged. With --salvage what is sound goes into a new lab, and
        the report says which offsets are lost and where the others went.""",
        "streamlab verify my-lab --salvage my-lab-saved",
    ),
    "fork": Verb(
        _fork,
        """What is sealed is shared on disk, not copied. Removing either stream, or rows of it, leaves
        the other whole.""",
        "streamlab fork my-lab trades what-if --at 2026-01-05T09:30Z",
    ),
    "pack": Verb(
        _pack,
        """The archive is a zip file of plain Arrow files; it appears when it is whole. Jobs and
        positions are not in it.""",
        "streamlab pack my-lab trades.zip trades quotes --as-of 2026-01-05T10:00Z",
    ),
    "unpack": Verb(
        _unpack,
        """Rows have the offsets and times that they had. An archive that is damaged, or that is
        none, leaves nothing behind.""",
        "streamlab unpack trades.zip their-lab",
    ),
    "compact": Verb(
        _compact,
        """Offsets and times stay as they are. Rows are left alone that are younger than the stream's
        compact_lag, that a view has pinned, or that a query has yet to read; deletions stay for its
        delete_retention. A stream with cleanup "compact" does this by itself as it grows.""",
        "streamlab compact my-lab accounts",
    ),
}
