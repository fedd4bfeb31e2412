"""The package idq-id801 calls our fake quTAG library: both instruments are qutools', and the libraries share these functions.

The ID801 is the quTAG's older sister; functions that only one of them has are not called. Its constructor is passed over: it
switches on START, which our fake refuses, because it would set the clock back.
"""

import ctypes
import time

import numpy as np
from bench import check, near, simulator
from id801.id801 import ID801

RATE, PICOSECOND = 40_000, 1e-12

with simulator("qutag", "--rate", str(RATE)) as where:
    tagger = ID801.__new__(ID801)
    tagger._clib = ctypes.CDLL(where["library"])
    check("it is there", tagger._clib.TDC_init(-1) == 0)
    check("version", float(tagger.get_version()) >= 1.5, tagger.get_version())
    check("words for an error", tagger.parse_error(0).lower().startswith("success"), tagger.parse_error(0))
    tagger.set_timestamp_buffer_size(100_000)
    tagger.set_channel_delays([0] * 8)
    try:
        tagger.set_timestamp_buffer_size(2_000_000)
        refused = ""
    except Exception as error:
        refused = str(error)
    check("a buffer that is too large is refused", bool(refused), refused)
    tagger.enable_channels([False, True, True, True, True, False, False, False])
    times, channels, begin = [], [], time.monotonic()
    while time.monotonic() - begin < 1.0:
        stamps, inputs, valid = tagger.get_last_timestamps(100_000)
        times.append(stamps[:valid].copy())
        channels.append(inputs[:valid].copy())
        time.sleep(0.02)
    check("nothing was lost", tagger.get_data_lost() == 0)
    clicks, inputs = np.concatenate(times), np.concatenate(channels)
    seconds = float(clicks[-1] - clicks[0]) * PICOSECOND
    check("tags come at their rate", near(len(clicks) / seconds, RATE, 0.1 * RATE), round(len(clicks) / seconds))
    check("in order", bool(np.all(np.diff(clicks) >= 0)))
    shares = np.bincount(inputs)
    check(
        "from four inputs alike",
        len(shares) == 4 and all(near(n, len(clicks) / 4, 0.02 * RATE) for n in shares),
        list(shares),
    )
