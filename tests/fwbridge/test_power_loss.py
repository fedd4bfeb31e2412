"""Updates with the power cut at random bytes: no board is bricked, none goes back behind its counter."""

from __future__ import annotations

import hashlib
import random

import pytest
from qkdd_drivers.qkdd_board.bootstore import BootStore, Refuse
from qkdd_drivers.qkdd_board.flash import PowerLost
from qkdd_fwbridge.messages import NO_SLOT, Reason, SlotState

from .boards import signed, store

CUTS = 200
OLD = signed((1, 5, 0), 0)


def install(board: BootStore, image: bytes) -> None:
    """What a host does, from wherever the board stands. Raises PowerLost."""
    wanted = hashlib.sha256(image).digest()
    if board.image is not None and board.image.digest == wanted:
        if board.record.trial != NO_SLOT:
            board.confirm()
        return
    if board.record.trial != NO_SLOT:
        board.roll_back()
        board.boot()
    offset = board.begin(len(image), wanted)
    while offset < len(image):
        offset = board.take(offset, image[offset : offset + 1000])
    board.finish()
    board.start_trial(60)
    board.boot()
    board.confirm()


def try_downgrade(board: BootStore) -> None:
    """An attacker at the cable with an old, well-signed image. Raises PowerLost."""
    if board.record.trial != NO_SLOT:
        return
    offset = board.begin(len(OLD), hashlib.sha256(OLD).digest())
    while offset < len(OLD):
        offset = board.take(offset, OLD[offset : offset + 4096])
    with pytest.raises(Refuse) as refused:
        board.finish()
    assert refused.value.reason is Reason.DOWNGRADE


def work_of_one_update(target: bytes) -> int:
    board, power = store()
    before = power.work
    install(board, target)
    return power.work - before


def test_200_power_cuts() -> None:
    rng = random.Random(20261121)
    versions = [signed((2, n, 0), 1 + n) for n in range(0, 40)]
    span = work_of_one_update(versions[1])
    board, power = store(7, versions[0])
    cuts = at = 0
    reached_counter = board.rollback_counter
    installed = 0
    while cuts < CUTS:
        at = min(at, len(versions) - 2)
        power.cut_after = rng.randrange(span)
        try:
            if rng.random() < 0.1:
                try_downgrade(board)
            install(board, versions[at + 1])
        except PowerLost:
            cuts += 1
            power.restore()
            while True:
                # a power cut may also hit the boot itself
                if rng.random() < 0.3:
                    power.cut_after = rng.randrange(200)
                try:
                    image = board.boot()  # Brick would fail the test
                except PowerLost:
                    cuts += 1
                    power.restore()
                    continue
                break
            power.restore()
            assert image.manifest.counter >= reached_counter, "a downgrade"
            assert board.rollback_counter >= reached_counter
            if board.record.trial == NO_SLOT:
                reached_counter = max(reached_counter, board.rollback_counter)
        else:
            power.restore()
            installed += 1
            at += 1
            assert board.boot().manifest.version == (2, at, 0)
            assert board.rollback_counter == 1 + at
            reached_counter = board.rollback_counter
            if at == len(versions) - 1:
                at, reached_counter = 0, 1
                board, power = store(rng.randrange(1 << 30), versions[0])
    assert installed >= 10


@pytest.mark.parametrize("part", range(4))
def test_resumes_where_it_was_cut(part: int) -> None:
    """Sectors that were finished before the cut are not sent again."""
    image = signed((2, 1, 0), 2)
    board, power = store()
    digest = hashlib.sha256(image).digest()
    offset = board.begin(len(image), digest)
    power.cut_after = 4096 * part + 2000
    try:
        while offset < len(image):
            offset = board.take(offset, image[offset : offset + 512])
    except PowerLost:
        power.restore()
        board.boot()
        again = board.begin(len(image), digest)
        assert again % 4096 == 0
        assert again <= offset + 512
        assert again >= offset + 512 - 4096 * 2
        offset = again
    while offset < len(image):
        offset = board.take(offset, image[offset : offset + 512])
    board.finish()
    assert board.record.slots[1].state is SlotState.STAGED


def test_death_during_trial_brings_the_old_firmware_back() -> None:
    board, _ = store()
    image = signed((2, 1, 0), 2)
    board.take(board.begin(len(image), hashlib.sha256(image).digest()), image)
    board.finish()
    board.start_trial(60)
    assert board.boot().manifest.version == (2, 1, 0)
    assert board.rollback_counter == 1  # a trial burns nothing
    assert board.boot().manifest.version == (2, 0, 0)  # it died before it was confirmed
    assert board.record.slots[1].state is SlotState.BAD


def test_a_confirmed_update_can_be_taken_back_only_above_the_counter() -> None:
    board, _ = store()
    install(board, signed((2, 1, 0), 1))
    board.roll_back()
    assert board.boot().manifest.version == (2, 0, 0)
    install(board, signed((2, 2, 0), 5))
    with pytest.raises(Refuse) as refused:
        board.roll_back()
    assert refused.value.reason is Reason.DOWNGRADE
    assert board.boot().manifest.version == (2, 2, 0)


@pytest.mark.parametrize("where", [0, 12, 40, 50, 5000, -1])
def test_a_changed_image_is_not_staged(where: int) -> None:
    board, _ = store()
    image = bytearray(signed((2, 1, 0), 2))
    image[where] ^= 4
    data = bytes(image)
    board.take(board.begin(len(data), hashlib.sha256(data).digest()), data)
    with pytest.raises(Refuse) as refused:
        board.finish()
    assert refused.value.reason is Reason.IMAGE
    assert board.boot().manifest.version == (2, 0, 0)


def test_another_model_is_refused() -> None:
    board, _ = store()
    image = signed((2, 1, 0), 2, model="QKDD-RX1")
    board.take(board.begin(len(image), hashlib.sha256(image).digest()), image)
    with pytest.raises(Refuse, match="QKDD-RX1"):
        board.finish()
