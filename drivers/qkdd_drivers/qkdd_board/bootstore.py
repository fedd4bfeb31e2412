"""A/B slots, anti-rollback counter and boot decision of a board: what survives a power loss at any byte.

Sectors: 0 and 1 two copies of the record (the one with the higher generation and a good CRC holds; the other one is written
next), 2 the fuses (one-way: the counter is the number of cleared bits), 3 one byte for each finished sector of the image that
is being received, then slot A, then slot B.

Rules: a slot that runs is never written. An image runs only after its signature, model and counter were checked at this very
boot. A trial is marked as begun before it begins, so that a board that dies in it comes back with the other slot. The counter
rises only after the record says that the image is confirmed, and a boot finishes a rise that was cut.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA87PublicKey
from qkdd_fwbridge.errors import BridgeError, ImageRefused
from qkdd_fwbridge.image import Image, check_fits, file_size, verify
from qkdd_fwbridge.messages import NO_SLOT, Reason, SlotState

from qkdd.kernels import crc32c
from qkdd_drivers.qkdd_board.flash import SECTOR, Flash

_RECORD = struct.Struct("<4sIBBBHBHHHIBHHHII32s")
_MAGIC = b"BOOT"
_FUSES, _JOURNAL, _FIRST = 2, 3, 4
_DONE = b"\x00"
OTHER = (1, 0)


class Brick(Exception):
    """No slot holds an image that may run."""


class Refuse(Exception):
    """The board says no."""

    def __init__(self, reason: Reason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Slot:
    state: SlotState = SlotState.EMPTY
    version: tuple[int, int, int] = (0, 0, 0)
    counter: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    generation: int = 0
    active: int = 0
    trial: int = NO_SLOT
    begun: int = 0
    confirm_s: int = 0
    slots: tuple[Slot, Slot] = field(default=(Slot(), Slot()))
    size: int = 0
    digest: bytes = bytes(32)

    def encode(self) -> bytes:
        slots = [part for s in self.slots for part in (s.state, *s.version, s.counter)]
        body = _RECORD.pack(
            _MAGIC, self.generation, self.active, self.trial, self.begun, self.confirm_s, *slots, self.size, self.digest
        )
        return body + struct.pack("<I", crc32c(body))

    @staticmethod
    def decode(data: bytes) -> Record | None:
        """None when this copy is damaged or empty."""
        body = data[: _RECORD.size]
        if struct.unpack_from("<I", data, _RECORD.size)[0] != crc32c(body):
            return None
        magic, generation, active, trial, begun, confirm, *rest = _RECORD.unpack(body)
        if magic != _MAGIC:
            return None
        slots = [Slot(SlotState(r[0]), (r[1], r[2], r[3]), r[4]) for r in (rest[0:5], rest[5:10])]
        return Record(generation, active, trial, begun, confirm, (slots[0], slots[1]), rest[10], rest[11])


class BootStore:
    """The persistent side of one board. `slot_sectors`: size of each slot. `boot()` must be called at each power-up."""

    def __init__(
        self, flash: Flash, slot_sectors: int, model: str, hardware: int, trusted: Sequence[MLDSA87PublicKey]
    ) -> None:
        if slot_sectors > SECTOR or flash.sectors < _FIRST + 2 * slot_sectors:
            raise ValueError("the slots do not fit into the flash")
        self._flash, self._sectors = flash, slot_sectors
        self._model, self._hardware, self._trusted = model, hardware, trusted
        self.record = Record()
        self.running = 0
        self.image: Image | None = None
        self._pending = bytearray()  # bytes of the sector in hand
        self._offset = 0

    @staticmethod
    def sectors_needed(slot_sectors: int) -> int:
        return _FIRST + 2 * slot_sectors

    # Factory and boot

    def manufacture(self, image: bytes) -> None:
        """Write the first image into slot A, at the factory."""
        self._flash.program(self._start(0), image)
        manifest = verify(image, self._trusted).manifest
        slot = Slot(SlotState.CONFIRMED, manifest.version, manifest.counter)
        self._write(Record(slots=(slot, Slot()), size=len(image), digest=hashlib.sha256(image).digest()))

    def boot(self) -> Image:
        """Decide what runs. Raises Brick. The only place where an image begins to run."""
        copies = [c for c in (self._copy(0), self._copy(1)) if c is not None]
        self.record = max(copies, key=lambda c: c.generation, default=Record())
        if self.record.trial != NO_SLOT and self.record.begun:
            self._fail_trial()
        if self.record.trial != NO_SLOT:
            self._write(replace(self.record, begun=1))
            if (image := self._runnable(self.record.trial)) is not None:
                return self._run(self.record.trial, image)
            self._fail_trial()
        for slot in (self.record.active, OTHER[self.record.active]):
            if (image := self._runnable(slot)) is not None:
                if self.record.slots[slot].state is SlotState.CONFIRMED:
                    self._raise_fuses(image.manifest.counter)  # a confirmation may have been cut
                return self._run(slot, image)
        raise Brick

    @property
    def rollback_counter(self) -> int:
        """Number of cleared bits in the fuses."""
        return SECTOR * 8 - int.from_bytes(self._flash.read(_FUSES * SECTOR, SECTOR), "little").bit_count()

    @property
    def received(self) -> int:
        """Bytes of the image on its way."""
        return self._offset

    # Update

    def begin(self, size: int, digest: bytes) -> int:
        """Begin an image, or go on with the same; returns where. Raises Refuse."""
        self._not_on_trial()
        if not 0 < size <= self._sectors * SECTOR:
            raise Refuse(Reason.RANGE, f"a slot has {self._sectors * SECTOR} bytes, the image {size}")
        target = OTHER[self.running]
        if (size, digest) != (self.record.size, self.record.digest) or self._slot(target).state is SlotState.CONFIRMED:
            self._flash.erase(_JOURNAL)
            self._set_slot(target, Slot(SlotState.RECEIVING), size=size, digest=digest)
        elif self._slot(target).state is not SlotState.STAGED:
            self._set_slot(target, Slot(SlotState.RECEIVING))
        self._pending.clear()
        self._offset = min(size, self._sectors_done() * SECTOR)
        return self._offset

    def take(self, offset: int, data: bytes) -> int:
        """Bytes of the image; returns the offset that comes next. Raises Refuse."""
        self._not_on_trial()
        target = OTHER[self.running]
        if self._slot(target).state is not SlotState.RECEIVING:
            raise Refuse(Reason.NOTHING, "no image is on its way")
        if offset != self._offset or offset + len(data) > self.record.size or not data:
            raise Refuse(Reason.OFFSET, f"the board goes on at {self._offset} of {self.record.size}")
        self._pending += data
        self._offset += len(data)
        while len(self._pending) >= SECTOR:
            self._store(target, bytes(self._pending[:SECTOR]))
            del self._pending[:SECTOR]
        if self._offset == self.record.size and self._pending:
            self._store(target, bytes(self._pending))
            self._pending.clear()
        return self._offset

    def finish(self) -> None:
        """Verify what was received and stage it. Raises Refuse; the slot is then empty."""
        self._not_on_trial()
        target = OTHER[self.running]
        if self._slot(target).state is SlotState.STAGED:
            return
        if self._slot(target).state is not SlotState.RECEIVING or self._offset != self.record.size:
            raise Refuse(Reason.OFFSET, f"{self._offset} of {self.record.size} bytes are here")
        try:
            data = self._flash.read(self._start(target), self.record.size)
            if hashlib.sha256(data).digest() != self.record.digest:
                raise ImageRefused("what is in the flash is not what was announced")
            image = verify(data, self._trusted)
            check_fits(image, self._model, self._hardware, self.rollback_counter)
        except ImageRefused as error:
            self._set_slot(target, Slot(), size=0, digest=bytes(32))
            reason = Reason.DOWNGRADE if error.code.endswith("DOWNGRADE") else Reason.IMAGE
            raise Refuse(reason, error.message) from None
        self._set_slot(target, Slot(SlotState.STAGED, image.manifest.version, image.manifest.counter))

    def start_trial(self, confirm_s: int) -> None:
        """The next boot runs the staged image on trial. Raises Refuse."""
        self._not_on_trial()
        target = OTHER[self.running]
        if self._slot(target).state is not SlotState.STAGED:
            raise Refuse(Reason.NOTHING, "no image is staged")
        self._write(replace(self.record, active=self.running, trial=target, begun=0, confirm_s=confirm_s))

    def confirm(self) -> None:
        """The image on trial stays. Raises Refuse."""
        if self.record.trial != self.running:
            raise Refuse(Reason.NOTHING, "no image is on trial")
        slots = self._with(self.running, replace(self._slot(self.running), state=SlotState.CONFIRMED))
        self._write(replace(self.record, active=self.running, trial=NO_SLOT, begun=0, slots=slots))
        self._raise_fuses(self._slot(self.running).counter)

    def roll_back(self) -> None:
        """The next boot runs the other slot. Raises Refuse."""
        if self.record.trial == self.running:
            self._fail_trial()
            return
        other = OTHER[self.running]
        if self._slot(other).state is not SlotState.CONFIRMED:
            raise Refuse(Reason.NOTHING, "the other slot holds nothing that ever ran")
        if self._slot(other).counter < self.rollback_counter:
            raise Refuse(
                Reason.DOWNGRADE, f"its counter is {self._slot(other).counter}, the board is at {self.rollback_counter}"
            )
        if self._runnable(other) is None:
            raise Refuse(Reason.IMAGE, "the image in the other slot is damaged")
        self._write(replace(self.record, active=other))

    # Inside

    def _run(self, slot: int, image: Image) -> Image:
        self.running, self.image = slot, image
        self._pending.clear()
        receiving = self._slot(OTHER[slot]).state is SlotState.RECEIVING
        self._offset = min(self.record.size, self._sectors_done() * SECTOR) if receiving else 0
        return image

    def _runnable(self, slot: int) -> Image | None:
        """The image in a slot if it may run here: read back and verified, whatever the record says."""
        content = self._flash.read(self._start(slot), self._sectors * SECTOR)
        try:
            image = verify(content[: file_size(content)], self._trusted)
            check_fits(image, self._model, self._hardware, self.rollback_counter)
        except BridgeError:
            return None
        return image

    def _fail_trial(self) -> None:
        slots = self._with(self.record.trial, replace(self._slot(self.record.trial), state=SlotState.BAD))
        self._write(replace(self.record, trial=NO_SLOT, begun=0, slots=slots))

    def _raise_fuses(self, counter: int) -> None:
        while (now := self.rollback_counter) < counter:
            raw = int.from_bytes(self._flash.read(_FUSES * SECTOR, SECTOR), "little")
            lowest = raw & -raw
            at = lowest.bit_length() - 1
            self._flash.program(_FUSES * SECTOR + at // 8, bytes([0xFF ^ 1 << at % 8]))
            if self.rollback_counter != now + 1:
                raise Refuse(Reason.ALARM, "a fuse does not burn")

    def _store(self, target: int, data: bytes) -> None:
        number = self._sectors_done()
        sector = self._start(target) // SECTOR + number
        self._flash.erase(sector)
        self._flash.program(sector * SECTOR, data)
        self._flash.program(_JOURNAL * SECTOR + number, _DONE)

    def _sectors_done(self) -> int:
        marks = self._flash.read(_JOURNAL * SECTOR, self._sectors)
        return len(marks) - len(marks.lstrip(_DONE))

    def _not_on_trial(self) -> None:
        if self.record.trial != NO_SLOT:
            raise Refuse(Reason.BUSY, "an image is on trial: confirm it or roll it back first")

    def _slot(self, number: int) -> Slot:
        return self.record.slots[number]

    def _with(self, number: int, slot: Slot) -> tuple[Slot, Slot]:
        return (slot, self.record.slots[1]) if number == 0 else (self.record.slots[0], slot)

    def _set_slot(self, number: int, slot: Slot, *, size: int | None = None, digest: bytes | None = None) -> None:
        self._write(
            replace(
                self.record,
                # the other slot runs, so it is what a boot without trial must run
                active=OTHER[number],
                slots=self._with(number, slot),
                size=self.record.size if size is None else size,
                digest=self.record.digest if digest is None else digest,
            )
        )

    def _start(self, slot: int) -> int:
        return (_FIRST + slot * self._sectors) * SECTOR

    def _copy(self, sector: int) -> Record | None:
        return Record.decode(self._flash.read(sector * SECTOR, _RECORD.size + 4))

    def _write(self, record: Record) -> None:
        """Over the older copy; the newer one stays good until the new one is whole."""
        generations = [c.generation if (c := self._copy(s)) is not None else -1 for s in (0, 1)]
        sector = 0 if generations[0] <= generations[1] else 1
        record = replace(record, generation=max(generations) + 1)
        self._flash.erase(sector)
        self._flash.program(sector * SECTOR, record.encode())
        self.record = record
