"""Which segments a filter can do without: Arrow's own reasoning over what the manifest says.

A segment's bounds are given to Arrow as a guarantee on a fragment; what contradicts the filter is not
opened. A filter that Arrow cannot reason about prunes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from streamlab.catalog import StreamInfo
from streamlab.clock import NEVER
from streamlab.log.manifest import Segment
from streamlab.scan import floor_scalar, time_scalar
from streamlab.schema import SYSTEM_FIELDS

__all__ = ["prune"]


def prune(
    segments: Sequence[Segment],
    condition: pc.Expression,
    info: StreamInfo,
    schema: pa.Schema,
    active: Segment,
) -> list[Segment]:
    """Return the segments that may hold rows for which the condition is true."""
    stored = info.schemas[-1]
    fragments = [_fragment(s, info.time, stored, s is active) for s in segments]
    dataset = ds.FileSystemDataset(fragments, schema, _IPC, _LOCAL)
    try:
        kept = {fragment.path for fragment in dataset.get_fragments(filter=condition)}
    except pa.ArrowException:
        return list(segments)
    return [segment for segment in segments if segment.file in kept]


_IPC = ds.IpcFileFormat()
_LOCAL = pafs.LocalFileSystem()


@functools.lru_cache(maxsize=65_536)
def _fragment(segment: Segment, time: str | None, schema: pa.Schema, growing: bool) -> ds.Fragment:
    """Return a stand-in for a segment, with what is known of its rows."""
    guarantee = pc.field("_offset") >= segment.base
    if not growing:
        append = SYSTEM_FIELDS["_append_time"].type
        guarantee &= pc.field("_offset") < segment.stop
        guarantee &= pc.field("_append_time") >= pa.scalar(segment.append_min, append)
        guarantee &= pc.field("_append_time") <= pa.scalar(segment.append_max, append)
        if time is not None and NEVER < segment.event_min <= segment.event_max:
            kind = schema.field(time).type
            guarantee &= pc.field(time) >= floor_scalar(segment.event_min, kind)
            guarantee &= pc.field(time) < time_scalar(segment.event_max + 1, kind)
    if "_partition" not in schema.names:
        guarantee &= pc.field("_partition") == pa.scalar(0, pa.int32())
    elif segment.partitions is not None:
        present = [number for number, rows in enumerate(segment.partitions) if rows]
        guarantee &= pc.field("_partition").isin(pa.array(present, pa.int32()))
    return _IPC.make_fragment(segment.file, _LOCAL, partition_expression=guarantee)
