"""What things look like in a notebook: HTML that stands still, of what is known at once.

Every name and value is escaped, and a dollar sign begins no mathematics. Nothing is fetched and no
script runs; colours are the notebook's. What cannot be drawn, because it is closed, dropped or
damaged, shows its plain text: a repr never raises.
"""

from __future__ import annotations

import base64
import datetime as dt
import html as markup
import math
from collections.abc import Iterable, Sequence
from typing import Any

import streamlab as sl
from streamlab.notebook.values import cells_of, since, type_name
from streamlab.palette import BLUE, GREEN, LATE, MUTED, ORANGE

__all__ = ["html", "sparkline", "svg_image"]

FAINT = "color:var(--jp-ui-font-color2,#5d6570)"
LINE = "1px solid var(--jp-border-color2,#d9dde2)"
PARTS = 48

SYSTEM = {"_partition": "int32", "_offset": "int64", "_append_time": "timestamp[us, tz=UTC]"}


def html(thing: Any) -> str:
    """Return a thing as HTML; of what cannot be drawn, its plain text."""
    try:
        body = _body(thing)
    except Exception as error:  # noqa: BLE001 - a repr never raises
        try:
            plain = repr(thing)
        except Exception:  # noqa: BLE001
            plain = f"<{type(thing).__name__}>"
        body = (
            f"<pre style='margin:0'>{_text(plain)}</pre>{_note(f'{type(error).__name__}: {error}')}"
        )
    style = "font-variant-numeric:tabular-nums;line-height:1.45;max-width:60em"
    return f'<div class="sl-repr tex2jax_ignore mathjax_ignore" style="{style}">{body}</div>'


def _body(thing: Any) -> str:
    match thing:
        case sl.Stream():
            return _stream(thing)
        case sl.Lab():
            return _lab(thing)
        case sl.Query():
            return _query(thing)
        case sl.Job():
            return _job(thing)
        case sl.Replay():
            return _replay(thing)
        case sl.Table():
            return _table(thing)
        case sl.Group():
            return _head(f"Consumer group {thing.name}") + _frame(thing.to_polars())
        case _ if type(thing).__name__ == "Jobs":
            return _jobs(thing)
        case _ if type(thing).__name__ == "Groups":
            return _head("Consumer groups") + (
                _frame(thing.to_polars())
                if len(thing)
                else _note("none yet: stream.consumer(name) makes one")
            )
        case _:
            first, *rest = repr(thing).splitlines() or [""]
            return _head(first) + "".join(_note(line.strip()) for line in rest)


# -- pieces --------------------------------------------------------------------------------------


def _text(value: object) -> str:
    """Return text for HTML, cut where it is endless."""
    text = str(value)
    text = text if len(text) <= 400 else f"{text[:399]}…"
    return markup.escape(text, quote=True).replace("$", "<span>$</span>")


def _head(title: str, *facts: str) -> str:
    said = f'<span style="{FAINT}"> {_text(" · ".join(facts))}</span>' if facts else ""
    return f"<div><b>{_text(title)}</b>{said}</div>"


def _note(text: str) -> str:
    return f'<div style="{FAINT};font-size:92%">{_text(text)}</div>'


def _grid(names: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """Return a table; cells are HTML already."""
    sides = ["right" if r else "left" for r in right]
    cell = "text-align:{};padding:1px 14px 1px 0;white-space:pre;border:0"
    head = "".join(
        f'<th style="{cell.format(side)};border-bottom:{LINE}">{_text(name)}</th>'
        for name, side in zip(names, sides, strict=True)
    )
    body = "".join(
        "<tr style='background:none'>" + "".join(
            f'<td style="{cell.format(side)}">{value}</td>' for value, side in zip(row, sides, strict=True)
        ) + "</tr>"
        for row in rows
    )  # fmt: skip
    return (
        f'<table style="border-collapse:collapse;margin:4px 0;font-size:92%"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _frame(frame: Any) -> str:
    """Return a small Polars frame."""
    right = [kind.is_numeric() or kind.is_temporal() for kind in frame.dtypes]
    columns = [["–" if c is None else c for c in cells_of(frame[name])] for name in frame.columns]  # noqa: RUF001
    return _grid(
        frame.columns, ([_text(c) for c in row] for row in zip(*columns, strict=True)), right
    )


def sparkline(
    counts: Sequence[int], span: tuple[int, int], *, width: int = 240, height: int = 28
) -> str:
    """Return bars of rows over time as SVG; the span is in microseconds since 1970 UTC."""
    if not counts:
        return ""
    most, each = max(*counts, 1), width / len(counts)
    says = f"rows per {_length((span[1] - span[0]) / len(counts) / 1e6)}, at most {most:,}"
    bars = "".join(
        f'<rect x="{i * each:.1f}" y="{height - max(1.0, height * n / most):.1f}" width="{each - 0.8:.1f}" '
        f'height="{max(1.0, height * n / most):.1f}"/>'
        for i, n in enumerate(counts)
        if n
    )
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" fill="{BLUE}">{bars}</svg>'
    )
    return svg_image(drawn, says, f"width:{width}px;height:{height}px")


def svg_image(drawn: str, says: str, style: str) -> str:
    """Return a drawing as an image: one inside of the page is taken out of what is not trusted."""
    data = base64.b64encode(drawn.encode()).decode("ascii")
    says = markup.escape(says, quote=True)
    return (
        f'<img alt="{says}" title="{says}" src="data:image/svg+xml;base64,{data}" '
        f'style="display:inline-block;vertical-align:bottom;max-width:none;{style}">'
    )


def _length(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _size(count: float) -> str:
    for power, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if count >= power:
            return f"{count / power:.1f} {unit}"
    return f"{count:.0f} B"


def _rows_of(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"


def _pill(text: str, colour: str) -> str:
    return (
        f'<span style="border:1px solid {colour};border-left-width:8px;border-radius:4px;padding:0 6px;font-size:92%">'
        f"{_text(text)}</span>"
    )


# -- things --------------------------------------------------------------------------------------


def _spread(stream: sl.Stream, width: int = 240) -> tuple[str, str]:
    """Return the sparkline of a stream, and its span in words."""
    low, high, counts = stream.density(PARTS)
    if not counts:
        return "", "" if not low else f"all at {since(low)}"
    return sparkline(counts, (low, high), width=width), f"{since(low)} to {since(high)}"


def _stream(stream: sl.Stream) -> str:
    stats = stream.stats()
    view = "View of stream" if repr(stream).startswith("View") else "Stream"
    facts = [
        _rows_of(stats.rows),
        _size(stats.bytes),
        f"offsets [{stats.earliest_offset:,}, {stats.end_offset:,})",
    ]
    bars, span = _spread(stream)
    keys = [stream.key] if isinstance(stream.key, str) else list(stream.key or ())
    kept = [
        f"event time {stream.time or 'of append'}", f"delay {stream.delay}",
        f"stream time {since(stats.stream_time)}",
        *([f"key {', '.join(keys)}"] if keys else []),
        *([f"{stats.partitions} partitions"] if stats.partitions > 1 else []),
        *([f"compacted up to offset {stats.compacted_upto:,}"] if stats.compacted_upto else []),
        f"kept {'compacted' if stream.cleanup == 'compact' else stream.retention}",
    ]  # fmt: skip
    roles = {**dict.fromkeys(keys, "key"), **({stream.time: "event time"} if stream.time else {})}
    rows = [
        [
            _text(f.name),
            f'<span style="{FAINT}">{_text(f.type)}</span>',
            _text(roles.get(f.name, "")),
        ]
        for f in stream.schema
    ]
    shown, rest = rows[:60], len(rows) - 60
    drawn = (
        f'<div style="margin:3px 0">{bars} <span style="{FAINT};font-size:92%">{_text(span)}</span></div>'
        if bars
        else _note(span or "no rows yet: stream.append(...)")
    )
    return (
        _head(f"{view} {stream.name}", *facts) + drawn + _note(" · ".join(kept))
        + _grid(["column", "type", ""], shown, [False, False, False])
        + (_note(f"and {rest} more columns") if rest > 0 else "")
    )  # fmt: skip


def _lab(lab: sl.Lab) -> str:
    rows = []
    names = list(lab)
    for name in names[:100]:
        try:
            stream = lab[name]
            stats = stream.stats()
            bars, span = _spread(stream, 120)
            rows.append([_text(name), f"{stats.rows:,}", _size(stats.bytes), bars, _text(span)])
        except sl.StreamlabError as error:
            rows.append([_text(name), "", "", "", _text(error)])
    count = f"{len(names)} stream{'s' * (len(names) != 1)}"
    grid = (
        _grid(
            ["stream", "rows", "size", "rows over time", "span"],
            rows,
            [False, True, True, False, False],
        )
        if rows
        else _note("no streams yet: lab.create(name, data)")
    )
    more = _note(f"and {len(names) - 100} more streams") if len(names) > 100 else ""
    plain = repr(lab).splitlines()[0]
    why = plain[plain.index(" (") + 2 : -1] if plain.endswith(")") else ""
    jobs = [job for job in lab.jobs.values() if job.status == "running"]
    running = _note(f"running jobs: {', '.join(job.name for job in jobs)}") if jobs else ""
    return _head(f"Lab {lab.path}", count, *([why] if why else [])) + grid + more + running


def _query(query: sl.Query) -> str:
    lines = [line.strip() for line in repr(query).splitlines()[1:]]
    steps = "".join(
        f'<div style="padding-left:{1.2 if i else 0}em">{_text(line)}</div>'
        for i, line in enumerate(lines)
    )
    columns = ", ".join(f"{name} ({type_name(kind)})" for name, kind in query.schema.items())
    hint = ".collect() answers now, .live() shows it, .run(into=...) goes on, .explain() says more"
    return (
        _head("Query over " + " and ".join(query.sources))
        + f'<div style="margin:3px 0">{steps}</div>'
        + _note(f"gives {columns}")
        + _note(hint)
    )


STATUS = {"running": GREEN, "stopped": MUTED, "failed": LATE, "paused": ORANGE}


def _job_row(job: sl.Job) -> list[str]:
    progress = job.progress
    mark = "–" if progress.watermark is None else f"{progress.watermark:%Y-%m-%d %H:%M:%S}Z"  # noqa: RUF001
    return [
        _text(job.name), _pill(job.status, STATUS.get(job.status, MUTED)), f"{progress.rows_in:,}",
        f"{progress.rows_out:,}", f"{progress.rows_late:,}", f"{progress.lag_rows:,}",
        f"{progress.rows_per_s:,.0f}", mark,
    ]  # fmt: skip


JOB_COLUMNS = ["job", "", "rows in", "rows out", "late", "behind", "rows/s", "watermark"]


def _job(job: sl.Job) -> str:
    where = repr(job).split(" into ", 1)[-1].split(":", 1)[0]
    rows = [_job_row(job)]
    error = _note(f"{type(job.error).__name__}: {job.error}") if job.error is not None else ""
    return (
        _head(f"Job {job.name}", f"into {where}")
        + _grid(JOB_COLUMNS, rows, [False, False, *[True] * 6])
        + error
    )


def _jobs(jobs: Any) -> str:
    rows = [_job_row(job) for job in jobs.values()]
    rest = [name for name in jobs.known() if name not in jobs]
    grid = (
        _grid(JOB_COLUMNS, rows, [False, False, *[True] * 6])
        if rows
        else _note("none was started here")
    )
    return (
        _head("Jobs")
        + grid
        + (_note(f"remembered, not running here: {', '.join(rest)}") if rest else "")
    )


def _replay(replay: sl.Replay) -> str:
    start, stop = replay.span
    share = (replay.position - start) / max(stop - start, dt.timedelta(microseconds=1))
    state = (
        "stopped"
        if replay.stopped
        else "done"
        if replay.done
        else "playing"
        if replay.playing
        else "paused"
    )
    speed = "as fast as it can" if replay.speed == math.inf else f"{replay.speed:g}×"  # noqa: RUF001
    bar = (
        f'<div style="border:{LINE};border-radius:3px;width:360px;margin:4px 0"><div style="height:8px;'
        f'width:{100 * share:.1f}%;background:{BLUE};border-radius:2px"></div></div>'
    )
    rows = [
        [_text(name), f"{done:,}", f"{total:,}"] for name, (done, total) in replay.released.items()
    ]
    ends = f"{start:%Y-%m-%d %H:%M:%S} to {stop:%Y-%m-%d %H:%M:%S} UTC, now at {replay.position:%H:%M:%S}"
    return (
        _head(f"Replay of {', '.join(replay)}", state, speed) + bar + _note(ends)
        + _grid(["stream", "rows released", "of"], rows, [False, True, True]) + _note(".controls() shows a transport bar")
    )  # fmt: skip


def _table(table: sl.Table) -> str:
    lines = repr(table).splitlines()
    roles = dict.fromkeys(table.key, "key")
    rows = [
        [_text(f.name), f'<span style="{FAINT}">{_text(f.type)}</span>', roles.get(f.name, "")]
        for f in table.schema
    ]
    return (
        _head(f"Table of stream {table.name} by {', '.join(table.key)}")
        + _grid(["column", "type", ""], rows[:60], [False, False, False])
        + _note(lines[0].partition(":")[2].strip())
        + _note(".to_polars() gives its rows, .as_of(when) the table as it was")
    )
