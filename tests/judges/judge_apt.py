"""thorlabs_apt_protocol makes byte by byte the frames that we send, and understands every frame that our MPC320 answers."""

import json
import time

import serial
import thorlabs_apt_protocol as apt
from bench import check, ours, simulator

DEVICE, HOST = 0x50, 0x01
PADDLES = (1, 2, 4)
COUNTS = (0, 1, 127, 128, 685, 1370, -1, 2**31 - 1)

OURS = """
import json, sys
from qkdd_drivers.thorlabs_mpc320 import protocol as p
COUNTS = (0, 1, 127, 128, 685, 1370, -1, 2**31 - 1)
f = p.Frame
made = [f(p.HW_REQ_INFO), f(p.HW_START_UPDATEMSGS), f(p.HW_STOP_UPDATEMSGS), f(p.POL_REQ_PARAMS)]
made += [f(p.SET_CHANENABLESTATE, mask, 2) for mask in range(8)]
for c in p.PADDLES:
    made += [f(p.MOD_IDENTIFY, c), f(p.REQ_CHANENABLESTATE, c), f(p.MOVE_HOME, c), f(p.REQ_POSCOUNTER, c)]
    made += [f(p.MOVE_JOG, c, way) for way in (1, 2)] + [f(p.MOVE_STOP, c, how) for how in (1, 2)]
    made += [p.move_absolute(c, n) for n in COUNTS]
for v in (10, 50, 100):
    made.append(f(p.POL_SET_PARAMS, data=p.encode_params(p.Params(v, 685, (25, 50, 1370)))))
print(json.dumps([m.encode().hex() for m in made]))
"""


def theirs() -> list[bytes]:
    to = (DEVICE, HOST)
    made = [apt.hw_req_info(*to), apt.hw_start_updatemsgs(*to), apt.hw_stop_updatemsgs(*to), apt.pol_req_params(*to)]
    made += [apt.mod_set_chanenablestate(*to, mask, 2) for mask in range(8)]
    for c in PADDLES:
        made += [apt.mod_identify(*to, c), apt.mod_req_chanenablestate(*to, c), apt.mot_move_home(*to, c)]
        made.append(apt.mot_req_poscounter(*to, c))
        made += [apt.mot_move_jog(*to, c, way) for way in (1, 2)] + [apt.mot_move_stop(*to, c, how) for how in (1, 2)]
        made += [apt.mot_move_absolute(*to, c, n) for n in COUNTS]
    made += [apt.pol_set_params(*to, v, 685, 25, 50, 1370) for v in (10, 50, 100)]
    return made


mine = [bytes.fromhex(text) for text in json.loads(ours(OURS))]
check("every frame that is sent is the same", mine == theirs(), f"{len(mine)} frames")

with simulator("mpc320") as where, serial.Serial(where["port"], 115200, timeout=0.2) as line:
    unpacker = apt.Unpacker(line, on_error="raise")

    def answer(question: bytes, wanted: str, seconds: float = 3.0):
        line.write(question)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for message in unpacker:
                if message.msg == wanted:
                    return message
        check(f"{wanted} comes", False)
        return None

    info = answer(apt.hw_req_info(DEVICE, HOST), "hw_get_info")
    check(
        "identity",
        str(info.serial_number).startswith("38") and info.model_number.startswith(b"MPC320"),
        info.model_number,
    )
    line.write(apt.mod_set_chanenablestate(DEVICE, HOST, 7, 2))
    state = answer(apt.mod_req_chanenablestate(DEVICE, HOST, 2), "mod_get_chanenablestate")
    check("channel state", state.dest == HOST and state.source == DEVICE, state)
    parameters = answer(apt.pol_req_params(DEVICE, HOST), "pol_get_params")
    check("parameters", parameters.velocity == 50, parameters)
    done = answer(apt.mot_move_absolute(DEVICE, HOST, 1, 300), "mot_move_completed", 10.0)
    check("a move is completed", done.chan_ident == 1, done)
    homed = answer(apt.mot_move_home(DEVICE, HOST, 4), "mot_move_homed", 10.0)
    check("a paddle is homed", homed.chan_ident == 4, homed)
