"""Firmware of the node's boards: stage, update with a canary group first, watch, roll back by itself.

An update touches nothing while the link makes key: the operator drains it first. Then per group (the canary group, then the
rest): stage, restart on trial, wait for the board, let the link run, watch error rate and counts for `watch`, and confirm; or,
on degradation, roll back every board of the group that is on trial and stop. A board whose daemon dies meanwhile goes back by
itself, because nobody confirms.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from qkdd.control.errors import BadRequest, NotFound, NotNow
from qkdd.control.firmware_views import FirmwareSlotView, FirmwareView, ImageView
from qkdd.control.views import Done
from qkdd.core import log
from qkdd.core.audit import AuditLog
from qkdd.core.clock import Clock
from qkdd.core.config import Section
from qkdd.core.errors import Kind, QkddError
from qkdd.core.units import Fraction, Seconds
from qkdd.device.firmware import FirmwareImage, FirmwareStatus, FirmwareTarget

MAX_IMAGE = 80 << 20
POLL_S = 1.0
_log = log.get("node")


class FirmwareDegraded(QkddError):
    code = "QKD-NODE-FIRMWARE-WORSE"
    meaning = "After a firmware update the link got worse or the board did not come back; the update was rolled back."
    default_remedy = "Keep the old firmware and report it to the maker of the image, with the message."


class FirmwareBusy(NotNow):
    code = "QKD-NODE-FIRMWARE-BUSY"
    kind = Kind.TRANSIENT
    meaning = "Firmware is not touched while the link makes key, or while another update runs."
    default_remedy = "`qkdctl drain` first; `qkdctl resume` afterwards."


class FirmwareConfig(Section, frozen=True):
    """[firmware]. trust: PEM files of the makers' public keys (ML-DSA-87). canary: devices that are updated and watched
    first. qber_rise: most by which the error rate may rise. counts_change: most by which the click rate may change.
    wanted: device to oldest firmware that raises no ticket, such as "2.1.0"."""

    trust: tuple[str, ...] = ()
    canary: tuple[str, ...] = ()
    watch: Seconds = Seconds(300.0)
    restart: Seconds = Seconds(60.0)
    qber_rise: Fraction = Fraction(0.01)
    counts_change: Fraction = Fraction(0.2)
    wanted: dict[str, str] = {}

    def is_old(self, device: str, firmware: str) -> bool:
        """Whether what the device runs is older than what is wanted of it; False when either is not known."""
        wanted = self.wanted.get(device)
        return wanted is not None and bool(firmware) and _numbers(firmware) < _numbers(wanted)

    def check(self) -> Iterator[tuple[str, str, str]]:
        if not 10 <= self.watch <= 36_000:
            yield "watch", f"{self.watch} lies outside 10 s to 10 h", "5 min is the default"
        if not 5 <= self.restart <= 600:
            yield "restart", f"{self.restart} lies outside 5 s to 10 min", "1 min is the default"
        for device, version in self.wanted.items():
            if not _VERSION.fullmatch(version):
                yield f"wanted.{device}", f"{version!r} is no version", 'write "2.1.0"'


_VERSION = re.compile(r"\d+(\.\d+)*")


def _numbers(version: str) -> tuple[int, ...]:
    """The first dotted number of a version text, such as (2, 1, 0)."""
    found = _VERSION.search(version)
    return tuple(int(part) for part in found[0].split(".")) if found is not None else ()


@dataclass(frozen=True, slots=True)
class Sight:
    """What tells whether the link is as it was; None = not known at the moment."""

    qber: float | None
    counts_per_s: float | None
    blocks_accepted: int


class LinkControl(Protocol):
    """What the service needs of the link; the daemon wires it."""

    def drained(self) -> bool:
        """True when no key is made and none will be until `resume`."""

    def sight(self) -> Sight: ...

    async def resume(self) -> Done: ...

    async def drain(self) -> Done: ...


class FirmwareService:
    """`boards`: every configured device that is a FirmwareTarget, by name. One update at a time."""

    def __init__(
        self,
        config: FirmwareConfig,
        boards: Mapping[str, FirmwareTarget],
        link: LinkControl,
        clock: Clock,
        audit: AuditLog,
        publish: Callable[..., None],
    ) -> None:
        self._config, self._boards, self._link = config, boards, link
        self._clock, self._audit, self._publish = clock, audit, publish
        self._lock = asyncio.Lock()

    async def list_boards(self) -> list[FirmwareView]:
        return [_view(name, await board.firmware_status()) for name, board in self._boards.items()]

    def verify(self, image: str, devices: Sequence[str]) -> list[ImageView]:
        """Which of the devices (none named: all) the image fits. Raises what is wrong with it for the first named one."""
        data = _read(image)
        found = []
        refused: QkddError | None = None
        for name, board in self._chosen(devices).items():
            try:
                found.append(_image_view(name, self._inspect(board, data)))
            except QkddError as error:
                if devices:
                    raise
                refused = error
        if not found and refused is not None:
            raise refused
        return found

    async def stage(self, image: str, devices: Sequence[str]) -> Done:
        """Bring the image into the free slots; nothing restarts."""
        data = _read(image)
        async with self._exclusive():
            chosen = self._fitting(data, devices)
            for name, board in chosen.items():
                await self._stage(name, board, data)
            return Done(message=f"staged on {', '.join(chosen)}")

    async def update(self, image: str, devices: Sequence[str]) -> Done:
        """Stage, restart, watch, confirm; canary group first. Raises FirmwareDegraded after having rolled back."""
        data = _read(image)
        async with self._exclusive():
            chosen = self._fitting(data, devices)
            canary = {n: b for n, b in chosen.items() if n in self._config.canary}
            # no canary named or chosen: the first board is the canary, unless it is alone
            canary = canary or dict(list(chosen.items())[:1])
            rest = {n: b for n, b in chosen.items() if n not in canary}
            before = self._link.sight()
            for group in (canary, rest):
                if group:
                    await self._update_group(group, data, before)
            return Done(
                message=f"updated and confirmed: {', '.join(chosen)}",
                details=[f"canary group: {', '.join(canary)}", "the link is drained; `qkdctl resume` goes on"],
            )

    async def rollback(self, devices: Sequence[str]) -> Done:
        if not devices:
            raise BadRequest("name the devices to roll back")
        async with self._exclusive():
            for name, board in self._chosen(devices).items():
                self._audit.write("firmware rollback", device=name)
                await board.rollback_firmware()
                self._publish("firmware.rolled-back", device=name, reason="operator")
            return Done(message=f"rolled back: {', '.join(devices)}")

    # Inside

    async def _update_group(self, group: Mapping[str, FirmwareTarget], data: bytes, before: Sight) -> None:
        config = self._config
        on_trial: list[str] = []
        try:
            for name, board in group.items():
                image = await self._stage(name, board, data)
                # long enough for all boards of the group to restart and be watched; then each goes back by itself
                confirm_s = min(65_535, int(config.watch + (len(group) + 1) * config.restart) + 60)
                self._audit.write("firmware trial", device=name, version=image.version, digest=image.digest)
                await board.start_firmware(confirm_s)
                on_trial.append(name)
                await self._back(name, board, image.version)
                self._publish("firmware.trial", device=name, version=image.version)
            await self._link.resume()
            try:
                await self._watch(group, before)
            finally:
                await self._link.drain()
            for name, board in group.items():
                await board.confirm_firmware()
                self._audit.write("firmware confirmed", device=name)
                self._publish("firmware.confirmed", device=name)
        except BaseException as error:
            await self._undo({n: group[n] for n in on_trial}, error)
            raise

    async def _watch(self, group: Mapping[str, FirmwareTarget], before: Sight) -> None:
        """Raises FirmwareDegraded. What was not known before the update is not compared."""
        first = self._link.sight()
        end = self._clock.monotonic() + self._config.watch
        while (left := end - self._clock.monotonic()) > 0:
            now = self._link.sight()
            self._publish("firmware.watch", left_s=round(left, 1), qber=now.qber, counts_per_s=now.counts_per_s)
            self._judge(before, now)
            await self._clock.sleep(min(POLL_S, left))
        now = self._link.sight()
        self._judge(before, now)
        if before.qber is not None and now.blocks_accepted <= first.blocks_accepted:
            raise FirmwareDegraded("no block was accepted within the watch time; before the update there were some")
        for name, board in group.items():
            if not (await board.firmware_status()).trial:
                raise FirmwareDegraded(f"{name} left its trial by itself")

    def _judge(self, before: Sight, now: Sight) -> None:
        config = self._config
        if before.qber is not None and now.qber is not None and now.qber > before.qber + config.qber_rise:
            raise FirmwareDegraded(f"error rate {now.qber:.4f} after the update, {before.qber:.4f} before")
        if before.counts_per_s and now.counts_per_s is not None:
            change = abs(now.counts_per_s / before.counts_per_s - 1.0)
            if change > config.counts_change:
                raise FirmwareDegraded(f"{now.counts_per_s:.4g} clicks a second, {before.counts_per_s:.4g} before")

    async def _back(self, name: str, board: FirmwareTarget, version: str) -> None:
        """Wait until a restarted board runs `version` on trial."""
        end = self._clock.monotonic() + self._config.restart
        problem = "no answer"
        while self._clock.monotonic() < end:
            try:
                status = await board.firmware_status()
            except QkddError as error:  # its line is away while it restarts
                problem = error.message
            else:
                if status.version == version and status.trial:
                    return
                problem = f"runs {status.version}"
            await self._clock.sleep(POLL_S)
        raise FirmwareDegraded(f"{name} did not come back with {version}: {problem}")

    async def _undo(self, on_trial: Mapping[str, FirmwareTarget], error: BaseException) -> None:
        reason = error.code if isinstance(error, QkddError) else type(error).__name__
        for name, board in on_trial.items():
            self._audit.write("firmware rollback", device=name, reason=reason)
            try:
                if (await board.firmware_status()).trial:
                    await board.rollback_firmware()
                self._publish("firmware.rolled-back", device=name, reason=reason)
            except QkddError as other:
                # it goes back by itself when its time is over, because nobody confirms
                _log.warning("rollback not reached", board=name, **log.error_fields(other))

    async def _stage(self, name: str, board: FirmwareTarget, data: bytes) -> FirmwareImage:
        image = self._inspect(board, data)
        self._audit.write("firmware staged", device=name, version=image.version, digest=image.digest)
        told = -1

        def progress(done: int, size: int) -> None:
            nonlocal told
            percent = 100 * done // size
            if percent != told:
                told = percent
                self._publish("firmware.progress", device=name, done=done, size=size)

        await board.stage_firmware(data, progress)
        return image

    def _inspect(self, board: FirmwareTarget, data: bytes) -> FirmwareImage:
        return board.inspect_firmware(data, [Path(path) for path in self._config.trust])

    def _fitting(self, data: bytes, devices: Sequence[str]) -> dict[str, FirmwareTarget]:
        """Named devices must all fit; of all devices those that fit are taken."""
        fitting, refused = {}, None
        for name, board in self._chosen(devices).items():
            try:
                self._inspect(board, data)
            except QkddError as error:
                if devices:
                    raise
                refused = error
            else:
                fitting[name] = board
        if not fitting and refused is not None:
            raise refused
        return fitting

    def _chosen(self, devices: Sequence[str]) -> dict[str, FirmwareTarget]:
        boards = self._boards
        for name in devices:
            if name not in boards:
                raise NotFound(f"{name!r} is no device with firmware of ours; there are {', '.join(boards) or 'none'}")
        if not boards:
            raise NotFound("no device of this node has firmware that the daemon can update")
        return {name: boards[name] for name in (devices or boards)}

    def _exclusive(self) -> asyncio.Lock:
        if self._lock.locked():
            raise FirmwareBusy("another update runs")
        if not self._link.drained():
            raise FirmwareBusy("the link makes key")
        return self._lock


def _read(path: str) -> bytes:
    file = Path(path)
    if not file.is_absolute():
        raise BadRequest(f"{path!r}: the daemon needs the full path of the image")
    try:
        if file.stat().st_size > MAX_IMAGE:
            raise BadRequest(f"{path} is larger than any image")
        return file.read_bytes()
    except OSError as error:
        raise BadRequest(f"{path} cannot be read by the daemon: {error.strerror}") from None


def _view(name: str, status: FirmwareStatus) -> FirmwareView:
    return FirmwareView(
        device=name,
        model=status.model,
        version=status.version,
        running=status.running,
        trial=status.trial,
        rollback_counter=status.rollback,
        slots=[
            FirmwareSlotView(name=s.name, state=s.state, version=s.version, counter=s.counter) for s in status.slots
        ],
        received=status.received,
        size=status.size,
    )


def _image_view(name: str, image: FirmwareImage) -> ImageView:
    return ImageView(
        device=name,
        model=image.model,
        version=image.version,
        counter=image.counter,
        size=image.size,
        digest=image.digest,
        signer=image.signer,
    )
