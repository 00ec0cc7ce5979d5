"""A stream in plain Python, row at a time: what the real one is compared with.

Rows are dicts in a list; the position in the list is the offset. It imports nothing of the package.
"""

FAR_PAST = -(2**63)


class OracleStream:
    """Appends, heartbeats, trims; answers by looking at every row."""

    def __init__(self):
        self.rows = []
        self.start = 0
        self.stream_time = FAR_PAST

    def append(self, rows, append_time):
        for row in rows:
            self.stream_time = max(self.stream_time, row["ts"])
            self.rows.append({**row, "append_time": append_time, "S": self.stream_time})

    def heartbeat(self, to):
        self.stream_time = max(self.stream_time, to)

    def trim(self, before):
        self.start = max(self.start, before)

    @property
    def end(self):
        return len(self.rows)

    def live(self):
        return [(offset, self.rows[offset]) for offset in range(self.start, self.end)]

    def find(self, time):
        """First offset whose stream time is at or after time."""
        return next((o for o, row in self.live() if row["S"] >= time), self.end)

    def find_appended(self, time):
        return next((o for o, row in self.live() if row["append_time"] >= time), self.end)

    def as_of(self, time):
        return [o for o, row in self.live() if row["append_time"] <= time]

    def between(self, since, until):
        return [o for o, row in self.live() if since <= row["ts"] < until]
