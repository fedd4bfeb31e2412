"""The drivers against the simulated board: both ways of symbols, losses, alarms, versions, firmware."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from qkdd_drivers.qkdd_board.driver import BoardDriver
from qkdd_drivers.qkdd_board.receiver.driver import Receiver
from qkdd_drivers.qkdd_board.sim import BoardSim, development_key, factory_image
from qkdd_drivers.qkdd_board.transmitter.driver import Transmitter
from qkdd_fwbridge import messages as m
from qkdd_fwbridge.errors import ImageRefused, SourceFailed, SymbolsLost
from qkdd_fwbridge.messages import Role

from qkdd.core.clock import SystemClock
from qkdd.core.counters import RecordingMeter
from qkdd.device import DeviceConfig, errors
from qkdd.device.roles import FirmwareTarget, PreparedSymbols, SymbolSource
from qkdd.device.usb_link import UsbBulkLink
from qkdd.testing.patience import PATIENCE_S, until_async

from .boards import signed

KINDS: dict[Role, type[BoardDriver]] = {Role.TRANSMITTER: Transmitter, Role.RECEIVER: Receiver}


def build(sim_address: Any, role: Role = Role.TRANSMITTER, **config: Any) -> Any:
    kind = KINDS[role]
    where = {"port": sim_address.port} if sim_address.port else {
        "host": sim_address.host, "tcp_ports": sim_address.tcp_ports
    }  # fmt: skip
    section = DeviceConfig(driver="board", **where, **config)
    return kind("board", section, kind.links(section), SystemClock(), RecordingMeter())


@asynccontextmanager
async def board(
    role: Role = Role.TRANSMITTER, *, tcp: bool = False, opened: bool = True, **options: Any
) -> AsyncIterator[tuple[BoardSim, Any]]:
    sim = BoardSim(role, listen=("127.0.0.1", 0) if tcp else None, boot_s=0.05, **options)
    address = await sim.start()
    driver = build(address, role)
    try:
        if opened:
            await driver.open()
        yield sim, driver
    finally:
        await driver.close()
        await sim.stop()


def run(test: Callable[[], Any]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test()

    asyncio.run(bounded())


async def collect(driver: Transmitter, count: int) -> list[PreparedSymbols]:
    blocks: list[PreparedSymbols] = []
    while sum(len(b.bit) + b.skipped + b.lost for b in blocks) < count:
        blocks += await driver.read_symbols()
    return blocks


@pytest.mark.parametrize("tcp", [False, True])
def test_full_stream_is_what_left_the_board(tcp: bool) -> None:
    sent: dict[int, int] = {}

    def pulses(first: int, symbols: Any) -> None:
        sent.update((first + i, int(v)) for i, v in enumerate(symbols))

    async def test() -> None:
        async with board(tcp=tcp, on_pulses=pulses) as (_, driver):
            await driver.set("pulse_rate", 100e3)
            await driver.set("laser", True)
            await driver.prepare(0.1, (0.7, 0.2, 0.1))
            assert await driver.start_symbols(on_demand=False) == 0
            blocks = await collect(driver, 30_000)
            blocks += await driver.stop_symbols()
            at = 0
            for block in blocks:
                assert block.first_slot == at
                assert not block.faults
                values = block.basis << 3 | block.bit << 2 | block.intensity
                assert [sent[at + i] for i in range(len(values))] == values.tolist()
                at += len(values)
            basis = np.concatenate([b.basis for b in blocks])
            assert abs(basis.mean() - 0.1) < 0.01

    run(test)


def test_on_demand_gives_the_asked_slots() -> None:
    sent: dict[int, int] = {}

    def pulses(first: int, symbols: Any) -> None:
        sent.update((first + i, int(v)) for i, v in enumerate(symbols))

    async def test() -> None:
        async with board(on_pulses=pulses) as (_, driver):
            await driver.set("pulse_rate", 200e3)
            await driver.set("laser", True)
            await driver.start_symbols(on_demand=True)
            await until_async(lambda: len(sent) >= 15_000, "so many pulses are sent")
            slots = np.sort(np.random.default_rng(1).choice(15_000, 400, replace=False)).astype(np.int64)
            answer = await driver.ask_symbols(slots)
            assert answer.here.all()
            values = answer.basis << 3 | answer.bit << 2 | answer.intensity
            assert values.tolist() == [sent[int(slot)] for slot in slots]
            await driver.release_symbols(10_000)
            future = await driver.ask_symbols(np.array([5, answer.next_slot + 10**9]))
            assert future.here.tolist() == [True, False]
            assert await driver.stop_symbols() == []

    run(test)


def test_lost_symbols_are_reported_with_their_number() -> None:
    async def test() -> None:
        async with board() as (sim, driver):
            await driver.set("pulse_rate", 100e3)
            await driver.start_symbols(on_demand=False)
            sim.inject("drop", every=3)
            blocks = await collect(driver, 30_000)
            sim.inject("clear")
            end = 0
            lost = 0
            for block in blocks:
                assert block.first_slot == end + block.lost + block.skipped
                assert block.faults == ((SymbolsLost.code,) if block.lost else ())
                end = block.first_slot + len(block.bit)
                lost += block.lost
            assert lost > 1000

    run(test)


def test_a_stream_that_was_cut_off_leaves_nothing_to_the_next() -> None:
    """The line goes away in the middle of a stream and comes back while the board still sends: Bind ends that stream, and none
    of its symbols is taken for the next one's."""

    async def test() -> None:
        async with board(tcp=True) as (_, driver):
            await driver.set("pulse_rate", 5e6)
            await driver.start_symbols(on_demand=False)
            await collect(driver, 1_000_000)
            await driver.close()
            await driver.open()
            assert await driver.start_symbols(on_demand=False) == 0
            blocks = await collect(driver, 200_000)
            assert blocks[0].first_slot == 0
            assert not any(block.faults for block in blocks)
            # the same without a new connection: what came between two streams is not the second one's
            await driver.ask("stop", m.StreamStop(), m.StreamStopped)
            await driver.start_symbols(on_demand=False)
            assert (await collect(driver, 200_000))[0].first_slot == 0

    run(test)


def test_without_credit_no_pulse_goes_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that does not read holds the transmitter; the skipped slots are announced, none is lost."""
    monkeypatch.setattr("qkdd_drivers.qkdd_board.transmitter.driver._AHEAD", 1 << 20)

    async def test() -> None:
        async with board() as (_, driver):
            await driver.set("pulse_rate", 20e6)
            await driver.start_symbols(on_demand=False)
            await asyncio.sleep(0.3)
            blocks = await collect(driver, 3_000_000)
            assert sum(b.skipped for b in blocks) > 100_000
            assert sum(b.lost for b in blocks) == 0

    run(test)


def test_a_stuck_qrng_raises_an_alarm_and_no_symbol_follows() -> None:
    async def test() -> None:
        async with board() as (sim, driver):
            await driver.set("laser", True)
            await driver.start_symbols(on_demand=False)
            sim.inject("qrng-stuck")
            with pytest.raises(errors.CommandRefused, match="repetition"):
                await collect(driver, 10**9)
            assert (await driver.get("laser"))[0] is False
            with pytest.raises(errors.CommandRefused, match="RANDOM"):
                await driver.ping()

    run(test)


def test_choices_fed_by_the_host() -> None:
    async def test() -> None:
        async with board() as (_, driver):
            await driver.set("pulse_rate", 20e3)
            await driver.set("randomness", "host")
            await driver.set("noise_source", "/dev/urandom")
            await driver.start_symbols(on_demand=False)
            blocks = await collect(driver, 5_000)
            bits = np.concatenate([b.bit for b in blocks])
            assert len(bits) > 4_000
            assert abs(bits.mean() - 0.5) < 0.05

    run(test)


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/null", "/nowhere"])
def test_a_bad_noise_source_never_reaches_the_board(source: str) -> None:
    async def test() -> None:
        async with board() as (_, driver):
            await driver.set("randomness", "host")
            await driver.set("noise_source", source)
            with pytest.raises(SourceFailed):
                await driver.start_symbols(on_demand=False)

    run(test)


def test_old_firmware_is_refused_with_both_versions_and_can_be_updated() -> None:
    async def test() -> None:
        async with board(opened=False, firmware=factory_image(Role.TRANSMITTER, (1, 1, 0))) as (_, driver):
            with pytest.raises(errors.UnsupportedFirmware, match=r"1\.1\.0 with daemon 0\.1"):
                await driver.open()
            await driver.stage_firmware(signed((2, 3, 0), 4), lambda done, size: None)
            await driver.start_firmware(60)
            status = await until_version(driver, "2.3.0")
            assert status.trial == "B"
            await driver.confirm_firmware()
            assert (await driver.open()).firmware == "2.3.0"
            assert (await driver.firmware_status()).rollback == 4

    run(test)


async def until_version(driver: Any, version: str) -> Any:
    while True:
        try:
            status = await driver.firmware_status()
        except errors.DeviceError:
            await asyncio.sleep(0.02)
            continue
        if status.version == version:
            return status
        await asyncio.sleep(0.02)


def test_protocol_1_board_knows_no_window() -> None:
    async def test() -> None:
        async with board(firmware=factory_image(Role.TRANSMITTER, (1, 4, 0))) as (_, driver):
            with pytest.raises(errors.CommandRefused, match="do not know"):
                await driver.start_symbols(on_demand=True)
            await driver.start_symbols(on_demand=False)
            await driver.stop_symbols()

    run(test)


def test_update_goes_on_after_a_power_loss() -> None:
    async def test() -> None:
        image = signed((2, 1, 0), 2, size=40_000)
        async with board() as (sim, driver):
            sim.inject("power-cycle", after=20_000)
            with pytest.raises(errors.DeviceError):
                await driver.stage_firmware(image, lambda done, size: None)
            await driver.close()
            await until_version(driver, "2.0.0")
            seen: list[int] = []
            await driver.stage_firmware(image, lambda done, size: seen.append(done))
            assert seen[0] > 8192
            assert seen[-1] == len(image)

    run(test)


def test_unconfirmed_trial_goes_back_by_itself() -> None:
    async def test() -> None:
        async with board() as (_, driver):
            await driver.stage_firmware(signed((2, 1, 0), 2), lambda done, size: None)
            await driver.start_firmware(0)
            await driver.close()
            status = await until_version(driver, "2.0.0")
            while status.trial or status.slots[1].state != "bad":
                status = await until_version(driver, "2.0.0")
            assert status.rollback == 1

    run(test)


def test_firmware_is_not_touched_while_a_stream_runs() -> None:
    async def test() -> None:
        async with board() as (_, driver):
            await driver.start_symbols(on_demand=True)
            with pytest.raises(errors.CommandRefused, match="a stream runs"):
                await driver.stage_firmware(signed((2, 1, 0), 2), lambda done, size: None)

    run(test)


def test_board_refuses_downgrade_and_foreign_model() -> None:
    async def test() -> None:
        async with board() as (_, driver):
            for image, words in (
                (signed((1, 9, 0), 0), "counter 0"),
                (signed((2, 1, 0), 2, model="QKDD-RX1"), "QKDD-RX1"),
            ):
                with pytest.raises(errors.CommandRefused, match=words):
                    await driver.stage_firmware(image, lambda done, size: None)

    run(test)


def test_image_is_inspected_before_anything_is_sent(tmp_path: Path) -> None:
    key = tmp_path / "maker.pem"
    key.write_bytes(
        development_key()
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )

    async def test() -> None:
        async with board(opened=False) as (_, driver):
            assert driver.inspect_firmware(signed((2, 1, 0), 2), [key]).version == "2.1.0"
            with pytest.raises(ImageRefused, match="not trusted"):
                driver.inspect_firmware(signed((2, 1, 0), 2), [])
            with pytest.raises(ImageRefused, match="QKDD-RX1"):
                driver.inspect_firmware(signed((2, 1, 0), 2, model="QKDD-RX1"), [key])

    run(test)


def test_receiver_fields_and_safe_state() -> None:
    async def test() -> None:
        async with board(Role.RECEIVER) as (sim, driver):
            assert await driver.set("gate_width", 2e-9) == (2e-9,)
            await driver.set("gate", True)
            for name, field in driver.fields.items():
                assert len(await driver.get(name)) == field.size
            await driver.close()
            assert sim.board.registers[32] == 0.0

    run(test)


def test_wrong_identity_garbage_and_silence() -> None:
    async def test() -> None:
        async with board() as (sim, driver):
            sim.inject("garbage", bytes=5000)
            await driver.ping()
            sim.inject("hang")
            with pytest.raises(errors.DeviceTimeout):
                await driver.ping()
            sim.inject("clear")
            await driver.close()
            sim.inject("wrong-identity")
            with pytest.raises(errors.WrongDevice, match="XX9"):
                await driver.open()
            assert not driver.is_open

    run(test)


def test_roles() -> None:
    for name in (n for n in vars(SymbolSource) if not n.startswith("_")):
        assert hasattr(Transmitter, name)
    for name in (n for n in vars(FirmwareTarget) if not n.startswith("_")):
        assert hasattr(Receiver, name)
    assert Transmitter.facts().models[0].model == "QKDD-TX1"
    assert Receiver.facts().models[0].model == "QKDD-RX1"


@pytest.mark.parametrize("port", ["usb://", "usb://12:34", "usb://1209:5a01/", "usb://1209:5g01"])
def test_usb_port_form(port: str) -> None:
    with pytest.raises(errors.DeviceConfigError):
        UsbBulkLink(port)


def test_usb_port_is_taken_from_the_configuration() -> None:
    links = Transmitter.links(DeviceConfig(driver="qkdd_transmitter", port="usb://1209:5a01/QB1"))
    assert links[0].key == "usb://1209:5a01/QB1"
    assert os.path.basename(links[0].key) == "QB1"
