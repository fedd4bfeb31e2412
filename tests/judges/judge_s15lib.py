"""S-Fifteen's own library drives our TDC1, SPD and TDC2 simulators; the vendor wrote both instruments' firmware and this."""

import tempfile
import time
from pathlib import Path

import numpy as np
from bench import check, near, simulator
from S15lib.instruments import SinglePhotonDetector, TimestampTDC1, TimestampTDC2

RATE = 40_000  # clicks a second over all inputs


def four(values, count):
    """As many numbers as there have to be. Raises ValueError."""
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers")
    return values


def some(text):
    """Raises ValueError when nothing came."""
    if not text:
        raise ValueError("nothing")
    return text


def patient(line, call):
    """The library waits 10 to 100 ms for an answer; a busy machine may need more, and what comes late is thrown away."""
    for _ in range(20):
        try:
            return call()
        except (ValueError, IndexError):
            time.sleep(0.3)
            line.reset_input_buffer()
    return call()


def tdc1() -> None:
    with simulator("tdc1", "--rate", str(RATE)) as where:
        counter = TimestampTDC1(where["port"], integration_time=0.2, level="NIM")

        def ask(call):
            return patient(counter._com, call)

        check("TDC1: mode", ask(lambda: counter.mode) == "singles")
        check("TDC1: integration time", ask(lambda: counter.int_time) == 200)
        check("TDC1: NIM threshold", ask(lambda: float(counter.level.split()[0])) == -0.5)
        counter.threshold = 0.8
        taken = ask(lambda: float(counter.threshold.split()[0]))
        check("TDC1: a threshold is taken", near(taken, 0.8, 0.001), taken)
        counter.clock = "2"
        check("TDC1: clock source is taken", ask(lambda: int(counter.clock)) == 2)
        counts = ask(lambda: four(counter.get_counts(0.2), 4))
        mean = RATE / 4 * 0.2
        check("TDC1: counts of four inputs", all(near(n, mean, 6 * mean**0.5) for n in counts), counts)
        pairs = ask(lambda: four(counter.get_counts_and_coincidences(0.2), 8))
        check("TDC1: singles and four pairs", len(pairs) == 8 and max(pairs[4:]) < min(pairs[:4]), pairs)
        times, patterns = ask(lambda: counter.get_timestamps(0.4, legacy=False))
        span = float(times[-1] - times[0]) * 1e-9
        here = len(times) / span
        check("TDC1: tags come at the rate of the counts", near(here, RATE, 0.15 * RATE), round(here))
        check("TDC1: in order", bool(np.all(np.diff(times) >= 0)))
        check("TDC1: their times lie in the gate", 0.1 < span < 0.41, span)
        shares = [int(np.count_nonzero(patterns & (1 << n))) for n in range(4)]
        check(
            "TDC1: every input has its quarter",
            all(near(n, sum(shares) / 4, 0.1 * sum(shares)) for n in shares),
            shares,
        )


def spd() -> None:
    with simulator("spd", "--rate", "3000") as where:
        detector = SinglePhotonDetector(where["port"])

        def ask(name):
            return patient(detector._com, lambda: getattr(detector, name))

        check("SPD: identity", "SPD" in patient(detector._com, lambda: some(detector.identity())))
        for name, value in (("hvolt", 140.0), ("threshvolt", -0.35), ("constp", 0.2), ("consti", 0.02), ("delay", 7.0)):
            setattr(detector, name, value)
            check(f"SPD: {name} is taken", near(ask(name), value, 1e-6))
        detector.settemperature = -15.0
        detector.temp_stabilization_on()
        check("SPD: it cools to the set-point", near(ask("temperature"), ask("settemperature"), 0.5))
        check("SPD: voltage of the cooler", ask("pvolt") > 0)
        detector.temp_stabilization_off()
        check("SPD: the loop is off", ask("loop") == 0 and ask("temperature") > 0)
        counted = patient(detector._com, lambda: detector.counts(0.3))
        check("SPD: counts after the gate", near(counted, 900, 200), counted)
        detector.hvolt = 0
        check("SPD: hardly any without bias", patient(detector._com, lambda: detector.counts(0.1)) < 5)


def tdc2() -> None:
    """Its program is started through a file of its own, as the library expects one without arguments."""
    with simulator("tdc2", "--rate", str(RATE)) as where, tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "readevents7"
        words = " ".join(f"'{word}'" for word in where["program"])
        program.write_text(f'#!/bin/sh\nexec {words} "$@"\n', encoding="utf-8")
        program.chmod(0o700)
        tagger = TimestampTDC2(readevents_path=str(program), outfile_path=str(Path(folder) / "events"))
        tagger.threshold = -0.4
        check("TDC2: thresholds in the program's steps", near(tagger.threshold[3], -0.4, 0.001), tagger.threshold)
        for seconds in (0.8, 4.0, 15.0):  # the program has to start within that time
            times, patterns = tagger.get_timestamps(seconds)
            if len(times) > 1000:
                break
        seconds = float(times[-1] - times[0]) * 1e-9
        check("TDC2: events come", len(times) > 1000, len(times))
        check(
            "TDC2: at the rate that was asked",
            near(len(times) / seconds, RATE, 0.1 * RATE),
            round(len(times) / seconds),
        )
        check("TDC2: in order", bool(np.all(np.diff(times.astype(np.float64)) >= 0)))
        shares = [int(np.count_nonzero(patterns & (1 << n))) for n in range(4)]
        check("TDC2: four inputs alike", all(near(n, sum(shares) / 4, 0.1 * sum(shares)) for n in shares), shares)


for judge in (tdc1, spd, tdc2):
    judge()
