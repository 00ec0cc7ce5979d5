"""A replay in plain Python: a list of entries in their common order, a clock, and a count.

A log is a list in order: rows (dicts with an integer ``t``, and ``at``, when it was appended) and
heartbeats (pairs of a time and when it was appended). It imports nothing of the package.
"""

FAR_PAST = -(2**63)
END = 2**63 - 1


def entries(logs, by_append):
    """Return (due, stream, offset after, stream time, whether it is a row), in the common order."""
    found = []
    for stream, log in enumerate(logs):
        s, end, number = FAR_PAST, 0, 0
        for entry in log:
            row = isinstance(entry, dict)
            time, at = (entry["t"], entry["at"]) if row else entry
            if not row and time <= s:
                continue  # a heartbeat that is not ahead is none
            s, end, number = max(s, time), end + row, number + 1
            found.append((at if by_append else s, stream, number, end, s, row))
    return [(due, i, end, s, row) for due, i, _, end, s, row in sorted(found)]


class OracleReplay:
    """What a replay is to show after each thing that is done with it."""

    def __init__(self, logs, *, start=None, stop=None, max_gap=None, by_append=False):
        self.width = len(logs)
        self.entries = [e for e in entries(logs, by_append) if stop is None or e[0] < stop]
        finite = [e[0] for e in self.entries if e[0] < END]
        self.start = finite[0] if start is None else start
        self.stop = finite[-1] if stop is None else stop
        self.max_gap = max_gap
        self.clock = self.quiet = self.start
        self.count = sum(e[0] < self.start for e in self.entries)
        self.generation = 0

    def shown(self):
        """Return (end, stream time) of each stream."""
        places = [(0, FAR_PAST)] * self.width
        for _, stream, end, s, _ in self.entries[: self.count]:
            places[stream] = (end, s)
        return places

    @property
    def done(self):
        return self.count == len(self.entries)

    def _settle(self):
        """What ends a stream comes with the last of all."""
        if all(e[0] == END for e in self.entries[self.count :]):
            self.count = len(self.entries)

    def play(self, micros, speed):
        """Let so much time pass on the wall, in whole microseconds at a whole speed, then stand."""
        if self.done:
            return
        self.quiet, left = self.clock, micros * speed
        while True:
            due = self.entries[self.count][0] if not self.done else None
            if due is None or due == END:
                break
            wait = max(due - self.clock, 0)
            cap = None if self.max_gap is None else self.max_gap * speed
            if cap is not None and due - self.quiet > cap:
                wait = max(self.quiet + cap - self.clock, 0)
            if wait > left:
                break
            left -= wait
            self.clock = self.quiet = max(due, self.clock)
            self.count += 1
        self._settle()
        self.clock = self.stop if self.done else min(self.clock + left, self.stop)

    def step_rows(self, rows):
        while rows and not self.done:
            due, *_, row = self.entries[self.count]
            self.count, rows = self.count + 1, rows - row
            self.clock = self.clock if due == END else max(self.clock, due)
        if self.done:
            self.clock = self.stop

    def step_time(self, micros):
        self.seek(min(self.clock + micros, self.stop))

    def seek(self, to):
        count = sum(e[0] < to for e in self.entries)
        if to >= self.clock:
            self.count = max(self.count, count)
        else:
            self.generation += count != self.count
            self.count = count
        self.clock = to

    def until(self, true_of):
        """Play on, for ever, until a row (stream, offset) for which it is true."""
        if self.done:
            return
        while not self.done:
            due, stream, end, _, row = self.entries[self.count]
            self.count += 1
            self.clock = self.clock if due == END else max(self.clock, due)
            if row and true_of(stream, end - 1):
                break
        if self.done:
            self.clock = self.stop
