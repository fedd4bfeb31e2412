"""T2: the package in a virtual machine with a kernel of its own: udev, USB, serial devices, hot plugging, control groups.

`make machine-qemu`; QEMU emulates the processor, so it takes minutes. The virtual machine's USB-serial adapter (FTDI) leads to
our TDC1 simulator on the host; a second instrument of ours is attached to the guest's kernel by USB/IP.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from . import guest
from .virtual import booted

pytestmark = [pytest.mark.slow, pytest.mark.vm]

CHECKS = (
    guest.the_kernel_names_the_serial_device, guest.the_service_runs_and_opens_it_in_its_sandbox,
    guest.no_swap_and_no_memory_to_swap, guest.a_usb_instrument_gets_name_group_and_facts, guest.detached_its_name_goes,
    guest.a_pulled_cable_is_noticed, guest.plugged_in_again_it_works_by_itself,
)  # fmt: skip
DEVICE = {"driver": "usb-serial", "chardev": "c0", "id": "adapter", "bus": "x.0", "always-plugged": True}


def play(folder: Path, image: Path) -> dict[str, str]:
    """What the guest said of each check: "" when it held."""
    found: dict[str, str] = {}
    device = ",".join(f"{k}={'on' if v is True else v}" if k != "driver" else str(v) for k, v in DEVICE.items())
    with ExitStack() as stack:
        simulator = subprocess.Popen(
            [Path(sys.executable).parent / "qkdd-sim", "tdc1", "--listen", "127.0.0.1:0", "--rate", "200"],
            stdout=subprocess.PIPE,
        )
        stack.callback(simulator.wait)
        stack.callback(simulator.terminate)
        assert simulator.stdout is not None
        address = json.loads(simulator.stdout.readline())
        stack.callback(simulator.stdout.close)
        usb = ("-device", "qemu-xhci,id=x", "-chardev", f"socket,id=c0,{where(address)}", "-device", device)
        machine = stack.enter_context(booted(folder, image, "", *usb))
        for said in machine.told():
            if "check" in said:
                found[said["check"]] = said["problem"]
            elif said["ask"] == "unplug":
                machine.qmp.command("device_del", id="adapter")
                machine.line.sendall(b"\n")
            elif said["ask"] == "plug":
                machine.qmp.command("device_add", **DEVICE)
                machine.line.sendall(b"\n")
    return found


def where(address: dict[str, Any]) -> str:
    """QEMU's words for the address that the simulator printed."""
    port = address.get("tcp_ports", [address.get("tcp_port")])[0] or str(address["port"]).rpartition(":")[2]
    return f"host=127.0.0.1,port={port}"


@pytest.mark.parametrize("check", [check.__name__ for check in CHECKS])
def test_in_the_machine(runs: dict[str, dict[str, str]], check: str) -> None:
    assert check in runs["kernel"], f"the guest did not come so far: {sorted(runs['kernel'])}"
    assert runs["kernel"][check] == ""
