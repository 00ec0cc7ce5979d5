"""The files of a consumer group: who is a member, who owns which partition, how far it has come.

A member is a file that its process holds locked, and so is a partition that it owns: the kernel frees
both at its death, and there are no timeouts. How far the group has come stands in one small file for
all partitions, replaced as a whole under a lock of its own, so that a commit is whole too.

Invariants: a partition's generation grows whenever it changes hands or is reset, before its new owner
reads a row; a place is replaced only by who holds the partition's lock and knows its generation; no
place is moved by anybody else. Where positions are replaced, the group's lock is held.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from streamlab.errors import CorruptSegment, StreamLocked
from streamlab.log import disk
from streamlab.log.format import dump_json, load_json
from streamlab.log.lock import FileLock

__all__ = ["Claim", "GroupFiles", "Membership", "Place", "Positions"]

PATIENCE_SECONDS = 10.0
"""How long to wait for somebody who replaces the positions, which takes a few milliseconds."""


class Place(NamedTuple):
    """How far a group has come in a partition."""

    offset: int  # of the next row; all rows of the partition below it are done
    appended: int | None  # append time of the row before it, whichever partition that is of
    generation: int = 0
    committed: int = 0  # when, in microseconds since 1970


class Positions(NamedTuple):
    """What the file says: the place of each partition, in order."""

    group: str  # an id, so that a group made anew is not taken for this one
    places: tuple[Place, ...]

    def moved(self, changes: Mapping[int, Place]) -> Positions:
        """Return them with the places of some partitions replaced."""
        return self._replace(
            places=tuple(changes.get(number, place) for number, place in enumerate(self.places))
        )


@dataclass(eq=False)
class Claim:
    """A partition that a member owns, for as long as the lock is held."""

    partition: int
    lock: FileLock
    group: str
    generation: int
    place: Place  # as committed last
    position: int  # what is read next
    dirty: bool = False  # rows were handed out, or another position was sought, since the commit

    def fits(self, positions: Positions) -> bool:
        """Whether the partition is this member's still."""
        known = positions.places[self.partition].generation
        return self.lock.in_place and positions.group == self.group and known == self.generation


class GroupFiles:
    """The folder of one group of one stream."""

    def __init__(self, log_folder: Path, stream: str, group: str) -> None:
        self.folder = log_folder / "groups" / group
        self.stream = stream
        self._path = self.folder / "positions"
        self._seen: tuple[tuple[int, int], Positions] | None = None
        self._lock = self._file_lock("lock", f'group "{group}" of stream "{log_folder.name}"')

    def _file_lock(self, name: str, what: str) -> FileLock:
        hint = "another process commits or resets just now; one that hangs can be ended"
        return FileLock(self.folder / name, what, hint=hint)

    # -- positions ---------------------------------------------------------------------------

    def make(self, places: Callable[[], Sequence[Place]]) -> None:
        """Make the group where there is none, with these places; durable when this returns."""
        if self._path.exists():
            return
        for folder in (self.folder.parent, self.folder):
            with contextlib.suppress(FileExistsError):
                disk.make_dir(folder)
            disk.sync_dir(folder.parent)
        for name in ("members", "partitions"):
            with contextlib.suppress(FileExistsError):
                disk.make_dir(self.folder / name)
        with self._lock(PATIENCE_SECONDS):
            if not self._path.exists():
                self._write(Positions(uuid.uuid4().hex, tuple(places())))

    def read(self) -> Positions:
        """Return how far the group has come.

        Raises:
            FileNotFoundError: there is no such group.
            CorruptSegment: the file is not what was written.
        """
        content = load_json(disk.read(self._path), self._path)
        try:
            if content["stream"] != self.stream:
                raise CorruptSegment(self._path, 0, "it is of another stream")
            places = tuple(Place(**place) for place in content["partitions"])
            return Positions(content["group"], places)
        except (LookupError, TypeError) as error:
            raise CorruptSegment(self._path, 0, f"{type(error).__name__}: {error}") from error

    def look(self) -> Positions:
        """Return how far the group has come, read again only if somebody moved it.

        Raises:
            FileNotFoundError: the group was deleted.
        """
        stat = os.stat(self._path)  # noqa: PTH116
        version = (stat.st_ino, stat.st_mtime_ns)
        if self._seen is None or self._seen[0] != version:
            self._seen = version, self.read()
        return self._seen[1]

    def change(self, change: Callable[[Positions], Positions]) -> Positions:
        """Replace the positions by changed ones, nobody else changing them meanwhile.

        Raises:
            FileNotFoundError: the group was deleted.
            StreamLocked: somebody else is at it, for longer than that takes.
        """
        with self._locked():
            before = self.read()
            after = change(before)
            if after != before:
                self._write(after)
            return after

    def reset(self, places: Sequence[Place], *, force: bool) -> None:
        """Move the whole group to these places; who owns a partition is fenced by it.

        Positions that cannot be read are written anew. Without ``force`` there may be no members:
        who joins later takes partitions under the same lock, and begins at the new places.

        Raises:
            StreamLocked: there are members.
            FileNotFoundError: the group was deleted.
        """
        with self._locked():
            if not force:
                self._refuse_members("reset")
            try:
                before = self.read()
                known = [place.generation + 1 for place in before.places]
            except CorruptSegment:
                before, known = Positions(uuid.uuid4().hex, ()), [0] * len(places)
            after = [p._replace(generation=g) for p, g in zip(places, known, strict=True)]
            self._write(before._replace(places=tuple(after)))

    def put_aside(self) -> Path:
        """Take the group away as a whole, and return the folder that is to be removed.

        Raises:
            StreamLocked: there are members.
            FileNotFoundError: the group was deleted.
        """
        with self._locked():
            self._refuse_members("deleted")
            beside = self.folder.with_name(f".gone-{uuid.uuid4().hex}")
            disk.rename(self.folder, beside)
            disk.sync_dir(beside.parent)
            return beside

    def _refuse_members(self, what: str) -> None:
        members = self.members()
        if members:
            pids = sorted({str(said.get("pid", "?")) for said in members.values()})
            raise StreamLocked(
                f"{self._lock.what} is not {what}: it has members, in process {', '.join(pids)}",
                hint="close the consumers first" + ("; force=True fences them" * (what == "reset")),
                holder=next(iter(members.values())),
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Be the only one who looks at the positions to replace them."""
        if not self.folder.exists():
            raise FileNotFoundError(self._path)
        with self._lock(PATIENCE_SECONDS):
            if not self._lock.in_place:  # the group was deleted while this waited
                raise FileNotFoundError(self._path)
            yield

    def _write(self, positions: Positions) -> None:
        content = {
            "format": 1,
            "stream": self.stream,
            "group": positions.group,
            "partitions": [place._asdict() for place in positions.places],
        }
        for left in self.folder.glob(".positions.*.tmp"):  # by a crash: the lock is ours
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(left)
        disk.replace_file(self._path, dump_json(content))

    # -- partitions --------------------------------------------------------------------------

    def take(self, wanted: Iterable[int], count: int, member: str) -> list[Claim]:
        """Own up to ``count`` of these partitions, of those that nobody owns.

        Raises:
            FileNotFoundError: the group was deleted.
        """
        locks = self._lock_partitions(wanted, count)
        if not locks:
            return []

        def handed_over(before: Positions) -> Positions:
            return before.moved(
                {p: before.places[p]._replace(generation=before.places[p].generation + 1)
                 for p in locks}
            )  # fmt: skip

        try:
            now = self.change(handed_over)
        except BaseException:
            for lock in locks.values():
                lock.release()
            raise
        for lock in locks.values():
            lock.note(member=member)
        places = now.places
        return [
            Claim(p, lock, now.group, places[p].generation, places[p], places[p].offset)
            for p, lock in locks.items()
        ]

    def _lock_partitions(self, wanted: Iterable[int], count: int) -> dict[int, FileLock]:
        """Lock up to ``count`` of these partitions, of those that nobody has locked."""
        locks: dict[int, FileLock] = {}
        for partition in wanted:
            if len(locks) == count:
                break
            lock = self._file_lock(f"partitions/{partition}", f"partition {partition}")
            with contextlib.suppress(StreamLocked):
                lock.acquire()
                locks[partition] = lock
        return locks

    def commit(self, places: Sequence[tuple[Claim, Place]]) -> list[Claim]:
        """Commit the places of partitions that are owned, as one; return those that no more are.

        Raises:
            FileNotFoundError: the group was deleted.
        """
        lost: list[Claim] = []

        def committed(before: Positions) -> Positions:
            lost.extend(claim for claim, _ in places if not claim.fits(before))
            return before.moved({c.partition: place for c, place in places if c.fits(before)})

        self.change(committed)
        for claim, place in places:
            if claim not in lost:
                claim.place = place
        return lost

    def owners(self, partitions: int) -> dict[int, dict[str, Any]]:
        """Return who owns each partition that is owned, as its lock says."""
        found = {}
        for partition in range(partitions):
            lock = self._file_lock(f"partitions/{partition}", "")
            if lock.taken():
                found[partition] = lock.holder()
        return found

    # -- members -----------------------------------------------------------------------------

    def join(self) -> Membership:
        """Become a member, until it is left or the process is gone."""
        return Membership(self.folder / "members")

    def members(self) -> dict[str, dict[str, Any]]:
        """Return what each live member says of itself, the oldest first."""
        folder = self.folder / "members"
        with contextlib.suppress(FileNotFoundError):  # nobody has ever joined
            names = _alive(folder, clear=False)
            return {name: FileLock(folder / name, "").holder() for name in names}
        return {}


class Membership:
    """One of those who share the partitions of a group."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        while True:
            self.name = f"{time.time_ns():020d}-{uuid.uuid4().hex}"
            self._lock = FileLock(folder / self.name, "membership")
            self._lock.acquire(None)
            if self._lock.path.exists():  # nobody took it for one left by the dead
                break
            self._lock.release()

    def share(self, partitions: int) -> tuple[list[int], int]:
        """Return the partitions that this member should own if all go by it, and how many that are.

        Of n members each has a rank by age; r owns the partitions r, r + n, and so on. That is
        at most one more than the others have, and a new member takes only what it needs.

        Raises:
            FileNotFoundError: the group was deleted.
        """
        members = _alive(self.folder, clear=True)
        if self.name not in members:
            raise FileNotFoundError(self.folder / self.name)
        mine = range(members.index(self.name), partitions, len(members))
        others = sorted(set(range(partitions)) - set(mine))
        return [*mine, *others], len(mine)

    def leave(self) -> None:
        """Stop being a member; doing so twice, or in a forked child, is harmless."""
        if self._lock.held:
            with contextlib.suppress(OSError):
                disk.unlink(self._lock.path)
            self._lock.release()


def _alive(folder: Path, *, clear: bool) -> list[str]:
    """Return the names of the live members in the order in which they joined.

    A shared lock is tried: two who look at once must not take each other for the member.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    return [name for name in names if _lives(folder / name, clear=clear)]


def _lives(path: Path, *, clear: bool) -> bool:
    """Whether a member lives; with ``clear`` the file of a dead one is removed."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        if clear:  # while it is locked: who is just joining notices
            with contextlib.suppress(OSError):
                disk.unlink(path)
        return False
    finally:
        os.close(fd)
