"""QMI loads our fake MultiHarp library as if it were PicoQuant's, measures, and reads events."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import bench
from bench import check, near

if "QKDD_FAKE" not in os.environ:  # the loader reads LD_LIBRARY_PATH once, when a process starts
    with bench.simulator("multiharp", "--rate", "40000") as where:
        folder = str(Path(where["library"]).parent)
        environment = os.environ | {"QKDD_FAKE": where["library"], "LD_LIBRARY_PATH": folder}
        sys.exit(subprocess.run([sys.executable, "-u", __file__], env=environment, check=False).returncode)

import numpy as np
import qmi
from qmi.instruments.picoquant.multiharp import PicoQuant_MultiHarp150

qmi.start("judge", console_loglevel="ERROR")
library = ctypes.CDLL(os.environ["QKDD_FAKE"])
text = ctypes.create_string_buffer(40)
check("the library opens device 0", library.MH_OpenDevice(0, text) == 0)
library.MH_CloseDevice(0)
serial = text.value.decode()
tagger = qmi.make_instrument("tagger", PicoQuant_MultiHarp150, serial)
tagger.open()
check("serial number", tagger.get_serial_number() == serial, serial)
check("model", "MultiHarp" in tagger.get_hardware_info()[0], tagger.get_hardware_info())
check("inputs", tagger.get_number_of_input_channels() >= 4)
check("base resolution", near(tagger.get_base_resolution()[0], 5.0, 1e-9), tagger.get_base_resolution())
tagger.initialize("T2", "INTERNAL")
tagger.set_event_filter(reset_filter=True)
tagger.set_block_events(False)
tagger.start_measurement(1000)
time.sleep(1.2)
tagger.stop_measurement()
events = tagger.get_events()
check("events come", len(events) > 1000, len(events))
check("in order", bool(np.all(np.diff(events["timestamp"].astype(np.int64)) >= 0)))
tagger.close()
qmi.stop()
