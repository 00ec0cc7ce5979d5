"""What a consumer group must keep, in plain Python, from what its members were seen to do.

Offsets are places in a list of partitions. The oracle is told of every poll and commit, and raises
`Broken` at the first thing that must not be.
"""


class Broken(AssertionError):
    """A rule was broken; the text says which."""


class Group:
    """The rows of a stream by partition, and what was processed and committed of them."""

    def __init__(self, partitions):
        self.partitions = partitions
        self.rows = []  # the partition of each offset
        self.committed = [0] * partitions
        self.processed = set()
        self.expected = {}  # member -> partition -> the offset from which its rows come next

    def check(self, holds, text):
        if not holds:
            raise Broken(text)

    def owning(self, owned):
        """Members own these partitions now; who took one over begins at its last commit."""
        everyone = [p for partitions in owned.values() for p in partitions]
        self.check(len(everyone) == len(set(everyone)), f"owned twice: {owned}")
        self.expected = {
            member: {p: self.expected.get(member, {}).get(p, self.committed[p]) for p in partitions}
            for member, partitions in owned.items()
        }

    def gave_up(self, member, partitions):
        """A member has let go of partitions, perhaps to take them again."""
        for p in partitions:
            self.expected.get(member, {}).pop(p, None)

    def polled(self, member, offsets, positions):
        """A member got these rows, and reads on from these positions."""
        self.check(offsets == sorted(set(offsets)), f"not in order: {offsets}")
        for p, start in self.expected[member].items():
            got = [at for at in offsets if self.rows[at] == p]
            due = [at for at in range(start, len(self.rows)) if self.rows[at] == p]
            self.check(got == due[: len(got)], f"partition {p} from {start}: {got} of {due}")
            self.check(start >= self.committed[p], f"partition {p} is read below its commit")
            left = [at for at in due[len(got) :] if at < positions[p]]
            self.check(not left, f"partition {p}: rows {left} below {positions[p]} were not given")
            self.expected[member][p] = positions[p]
        foreign = {self.rows[at] for at in offsets} - set(self.expected[member])
        self.check(not foreign, f"rows of partitions {foreign} of others")
        self.processed.update(offsets)

    def committing(self, member, positions):
        """A member has committed these positions."""
        for p, position in positions.items():
            self.check(position >= self.committed[p], f"partition {p} went back to {position}")
            lost = [
                at
                for at in range(self.committed[p], position)
                if self.rows[at] == p and at not in self.processed
            ]
            self.check(not lost, f"rows {lost} were committed and never processed")
            self.committed[p] = position

    def shared(self, owned):
        """After some polls by all: each has its fair share, and nothing lies idle."""
        most = -(-self.partitions // len(owned))
        self.check(all(len(o) <= most for o in owned.values()), f"more than {most}: {owned}")
        total = sum(map(len, owned.values()))
        self.check(total == self.partitions, f"{self.partitions - total} are nobody's: {owned}")

    def done(self):
        """All was read and committed."""
        missing = set(range(len(self.rows))) - self.processed
        self.check(not missing, f"never processed: {sorted(missing)}")
        left = [p for p, at in enumerate(self.committed) for r in self.rows[at:] if r == p]
        self.check(not left, f"not committed in partitions {sorted(set(left))}")
