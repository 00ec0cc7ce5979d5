"""The log: ordered, durable, replayable. The only code that touches a stream's bytes.

Reading order: `format` (bytes), `segment` (a file), `manifest` (which files), `head` (how far),
`recovery` (what is there after anything) and `repair`, `writer`, `bulk`, `reader`, `compact`,
`maintain`, and `log` over them all.
"""

from streamlab.log.bulk import Rows
from streamlab.log.compact import Compaction
from streamlab.log.compact import Rules as CompactionRules
from streamlab.log.log import Log
from streamlab.log.reader import Moment
from streamlab.log.writer import Policy

__all__ = ["Compaction", "CompactionRules", "Log", "Moment", "Policy", "Rows"]
