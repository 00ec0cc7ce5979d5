"""The head of a stream: how far it goes, in two slots of 64 bytes that take turns.

A writer publishes by writing the slot that is not the newest; a reader takes the newest sound one.
So a reader in any process sees rows at the next look, without a lock or a server.

Invariants: numbers only grow; a slot that does not fit its checksum counts as absent, and since it
may have been the newest, the head is then not to be trusted (`read` says so by None).
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import sys
import time
from pathlib import Path
from typing import NamedTuple

from streamlab.log import disk
from streamlab.log.format import checksum

__all__ = ["HEAD_SIZE", "Head", "HeadFile", "boot_id"]

SLOT = struct.Struct("<QQqqqqQIxxxx")
SLOT_SIZE = SLOT.size
HEAD_SIZE = 2 * SLOT_SIZE
assert SLOT_SIZE == 64


class Head(NamedTuple):
    """What a slot says, after its checksum."""

    serial: int  # grows by one with each publication
    end: int  # offset after the last row that readers may see
    durable: int  # offset below which all survives a power cut
    stream_time: int
    append_time: int
    boot: int  # which boot of the machine this was written in
    file: int  # number of the active file; low 32 bits

    def pack(self) -> bytes:
        """Return the 64 bytes of a slot."""
        body = SLOT.pack(0, *self)[8:]
        return struct.pack("<Q", checksum(body)) + body


def unpack(slot: bytes) -> Head | None:
    """Return what a slot says, or None if it does not fit its checksum."""
    if len(slot) != SLOT_SIZE or struct.unpack_from("<Q", slot)[0] != checksum(slot[8:]):
        return None
    return Head(*SLOT.unpack(slot)[1:])


@functools.cache
def boot_id() -> int:
    """Return a number for this boot of this machine: page caches live as long as it does."""
    with contextlib.suppress(OSError):
        return checksum(Path("/proc/sys/kernel/random/boot_id").read_bytes())
    if sys.platform == "darwin":
        import subprocess

        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return checksum(subprocess.check_output(command))  # noqa: S603
    return checksum(str(time.time_ns()).encode())  # unknown: as if each process were a boot


class HeadFile:
    """The head of one stream, mapped for reading and, by its writer, written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: memoryview | None = None
        self._fd: int | None = None
        self._serial = 0

    @staticmethod
    def create(path: Path, head: Head) -> None:
        """Write a new head file, both slots alike."""
        fd = disk.create(path)
        try:
            disk.write(fd, [head.pack(), head._replace(serial=head.serial + 1).pack()], 0)
            disk.sync(fd)
        finally:
            os.close(fd)

    def serial(self) -> int:
        """Return the newest serial, unchecked: a cheap look at whether anything was published."""
        data = self._mapped()
        if len(data) < HEAD_SIZE:
            return 0
        return max(int(struct.unpack_from("<8xQ", data, at)[0]) for at in (0, SLOT_SIZE))

    def read(self) -> Head | None:
        """Return the newest head, or None if it cannot be told."""
        for _ in range(4):  # a slot that is being written looks damaged for a moment
            data = bytes(self._mapped()[:HEAD_SIZE])
            slots = [unpack(data[:SLOT_SIZE]), unpack(data[SLOT_SIZE:])]
            first, second = slots
            if first and second and abs(first.serial - second.serial) == 1:
                return max(first, second)
            self._map = None  # perhaps the file was put together anew
            time.sleep(0.0002)
        return None

    def publish(self, head: Head) -> Head:
        """Write the next head; the serial is filled in."""
        if self._fd is None:
            known = self.read()
            self._serial = known.serial if known else max(self.serial() + 2, 2)
            if known is None:  # both slots anew, so that the pair is sound again
                self._restore(head)
            self._fd = disk.open_append(self.path)
        head = head._replace(serial=self._serial + 1)
        try:
            disk.write(self._fd, [head.pack()], (head.serial % 2) * SLOT_SIZE)
        except BaseException:
            self.close()  # which serial the file has now is found out at the next publication
            raise
        self._serial = head.serial
        return head

    def settle(self, head: Head) -> None:
        """Publish the same head twice, so that both slots say it, and make it durable."""
        self.publish(head)
        self.publish(head)
        assert self._fd is not None
        disk.sync(self._fd)

    def close(self) -> None:
        """Stop writing; reading goes on."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _restore(self, head: Head) -> None:
        serial = self._serial
        even = head._replace(serial=serial + serial % 2)
        self._serial = even.serial + 1
        pair = [even.pack(), even._replace(serial=self._serial).pack()]
        if len(self._mapped()) < HEAD_SIZE:
            disk.replace_file(self.path, b"".join(pair))
            return
        fd = disk.open_append(self.path)  # in place: readers have it mapped
        try:
            disk.write(fd, pair, 0)
        finally:
            os.close(fd)

    def _mapped(self) -> memoryview:
        if self._map is None:
            try:
                data = disk.map_file(self.path)
            except FileNotFoundError:
                return memoryview(b"")
            if len(data) < HEAD_SIZE:
                return memoryview(b"")
            self._map = data
        return self._map
