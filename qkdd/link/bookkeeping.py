"""Turns what happens on a link into its status, its metrics and its log lines. Nothing else reads or writes these."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qkdd.core import log
from qkdd.core.clock import Clock
from qkdd.core.counters import Meter
from qkdd.core.errors import QkddError
from qkdd.distill.blocks import DistilledBlock
from qkdd.distill.decoy_config import DecoySettings
from qkdd.link.aligning import AlignmentResult
from qkdd.link.clockmap import PS, ClockMap
from qkdd.link.config import LinkConfig
from qkdd.link.events import Events
from qkdd.link.pulse_statistics import OpenedPulses
from qkdd.link.slot_receiver import Tracking
from qkdd.link.status import BlockRecord, LinkState, LinkStatus, OpenedStretch

_LOG = log.get("link")


class Bookkeeping:
    """One per LinkSession."""

    def __init__(self, config: LinkConfig, status: LinkStatus, clock: Clock, meter: Meter) -> None:
        self._config, self._status, self._clock, self._meter = config, status, clock, meter
        self._name = config.name
        meter.set("qkdd_link_dead_time_seconds", float(config.shared.dead_time), link=self._name)

    def state(self, state: LinkState, error: QkddError | None = None) -> None:
        """Enter a state; logged once when it changes."""
        before = self._status.snapshot.state
        if state is LinkState.LOST and before is not LinkState.LOST:
            self._status.update(lock_losses=self._status.snapshot.lock_losses + 1)
            self._meter.add("qkdd_link_lock_losses_total", link=self._name)
        self._status.set_state(state, error.code if error else None)
        self._meter.set("qkdd_link_up", float(state is LinkState.RUNNING), link=self._name)
        if before is not state:
            _LOG.info("link " + state.value, **{**(log.error_fields(error) if error else {}), "link": self._name})

    def aligned(self, result: AlignmentResult, delays_ps: tuple[float, ...]) -> None:
        """An alignment succeeded."""
        statistics = result.statistics
        self._status.update(
            qber=statistics.qber,
            visibility=statistics.visibility,
            chsh_s_inferred=statistics.chsh_s,
            chsh_s_error=statistics.chsh_error,
            sacrificed_bits=statistics.bits,
            sacrificed_errors=statistics.errors,
            coincidences=statistics.matrix,
            coincidences_per_s=result.pairs_per_s,
            delays_ps=(delays_ps[0], delays_ps[1], delays_ps[2], delays_ps[3]),
            timing_leak_bits=result.timing_leak,
        )
        self.clock_map(result.clock)
        for basis, visibility in zip("ZX", statistics.visibility, strict=True):
            self._meter.set("qkdd_link_visibility_ratio", visibility, link=self._name, basis=basis)
        self._meter.set("qkdd_link_chsh_s_inferred", statistics.chsh_s, link=self._name)
        if statistics.qber is not None:
            self._meter.set("qkdd_link_qber_ratio", statistics.qber, link=self._name)
        snapshot = self._status.snapshot
        self._status.emit(
            "aligned",
            qber=statistics.qber,
            chsh_s_inferred=statistics.chsh_s,
            offset_s=snapshot.offset_s,
            drift=snapshot.drift,
        )
        _LOG.info(
            "clocks aligned",
            link=self._name,
            offset_s=snapshot.offset_s,
            drift=snapshot.drift,
            qber=statistics.qber,
            pairs_per_s=round(result.pairs_per_s),
        )

    def opened(self, stretch: OpenedStretch) -> None:
        """A stretch of the open link was looked at."""
        self._status.update(opened=stretch)
        self._status.emit("opened", number=stretch.number, qber=stretch.qber, pairs_per_s=stretch.pairs_per_s)

    def clock_map(self, clock: ClockMap) -> None:
        """The alignment moved on."""
        offset = -clock.offset_ps / PS
        self._status.update(offset_s=offset, drift=-clock.drift)
        self._meter.set("qkdd_link_clock_offset_seconds", offset, link=self._name)
        self._meter.set("qkdd_link_clock_drift_ratio", -clock.drift, link=self._name)

    def events(self, events: Events, seconds: float) -> None:
        """A block's clicks became events."""
        self._status.update(
            clicks_per_s=events.clicks / seconds,
            multi_click_ratio=events.multi_clicks / max(1, len(events)),
            blanked_ratio=events.blanked / max(1, events.clicks),
        )

    def sifted(self, bits: int, pairs: int, clock: ClockMap | None, seconds: float) -> None:
        """A block of pairs was sifted."""
        self._meter.add("qkdd_link_coincidences_total", pairs, link=self._name)
        self._meter.add("qkdd_link_sifted_bits_total", bits, link=self._name)
        self._status.update(coincidences_per_s=pairs / seconds)
        if clock is not None:
            self.clock_map(clock)

    # pulses ------------------------------------------------------------------------------------------------------------

    def pulses_aligned(self, opened: OpenedPulses) -> None:
        """The slots were numbered, and a stretch of them was opened."""
        z, x = opened.basis_rates
        bits = sum(map(sum, opened.bits))
        errors = sum(map(sum, opened.errors))
        self._status.update(
            qber=errors / bits if bits else None,
            visibility=(1 - 2 * z, 1 - 2 * x),
            sacrificed_bits=bits,
            sacrificed_errors=errors,
            coincidences=opened.matrix,
            gains=opened.gains,
            error_rates=opened.error_rates,
        )
        for basis, rate in zip("ZX", opened.basis_rates, strict=True):
            self._meter.set("qkdd_link_visibility_ratio", 1 - 2 * rate, link=self._name, basis=basis)
        self._show_gains(opened.gains)
        for level, rate in enumerate(opened.error_rates):
            self._meter.set("qkdd_link_intensity_error_ratio", rate, link=self._name, intensity=str(level))
        self._status.emit("aligned", qber=errors / bits if bits else None, detections=sum(opened.detected))
        _LOG.info(
            "slots aligned",
            link=self._name,
            detections=sum(opened.detected),
            qber=errors / bits if bits else None,
            gains=[round(gain, 9) for gain in opened.gains],
        )

    def _show_gains(self, gains: tuple[float, ...]) -> None:
        for level, gain in enumerate(gains):
            self._meter.set("qkdd_link_gain_ratio", gain, link=self._name, intensity=str(level))

    def slot_clock(self, error: float, tracking: Tracking | None, delays_ps: tuple[float, ...] | None = None) -> None:
        """The transmitter's clock as bob follows it. error: relative, against the nominal pulse rate."""
        if delays_ps is not None:
            self._status.update(delays_ps=delays_ps)
        self._status.update(drift=error)
        self._meter.set("qkdd_link_clock_drift_ratio", error, link=self._name)
        if tracking is not None:
            self._status.update(
                slot_phase=tracking.phase, slot_phase_worst=tracking.worst, slot_contrast=tracking.contrast
            )
            self._meter.set("qkdd_link_slot_phase_ratio", tracking.worst, link=self._name)

    def slot_events(
        self, clicks: tuple[int, int, int, int], detected: int, several: int, settings: DecoySettings
    ) -> None:
        """A block's clicks became detections. clicks: all, out of the gate, blanked, joined, since the last block."""
        total, outside, blanked, _ = clicks
        self._status.update(
            clicks_per_s=total / settings.block_s,
            multi_click_ratio=several / max(1, detected),
            blanked_ratio=blanked / max(1, total),
            gated_ratio=outside / max(1, total),
        )

    def sifting(self, from_bob: int, from_alice: int, detected: int) -> None:
        """Bytes of a block's sifting messages."""
        bits = 8 * (from_bob + from_alice) / max(1, detected)
        self._status.update(sifting_bits=bits)
        self._meter.set("qkdd_link_sifting_bits", bits, link=self._name)

    def pulses_sifted(self, intensities: NDArray[np.uint8], p: tuple[float, ...], pulses: int, detected: int) -> None:
        """A block of pulses was sifted. intensities: of the rounds of equal basis; their share stands for all detections."""
        kept = len(intensities)
        counts = np.bincount(intensities, minlength=len(p))[: len(p)]
        gains = tuple(
            float(n) / kept * detected / (pulses * share) if kept else 0.0 for n, share in zip(counts, p, strict=True)
        )
        self._meter.add("qkdd_link_sifted_bits_total", kept, link=self._name)
        self._meter.set("qkdd_link_detected_ratio", detected / pulses, link=self._name)
        self._show_gains(gains)
        self._status.update(gains=gains, detected_ratio=detected / pulses)

    # blocks ------------------------------------------------------------------------------------------------------------

    def accepted(self, block: DistilledBlock, processing_s: float) -> None:
        """A block became key on both nodes."""
        self._status.add_block(
            BlockRecord(
                number=block.number,
                wall=self._clock.wall(),
                accepted=True,
                code=None,
                sifted=block.sifted,
                qber=block.qber,
                tolerated=block.tolerated_error,
                length=block.length,
                leak=block.leak,
                f_sec=block.f_sec,
                acquisition_s=block.acquisition_s,
                processing_s=processing_s,
                method=block.method,
                reason=block.reason,
            )
        )
        name = self._name
        self._meter.add("qkdd_blocks_accepted_total", link=name)
        self._meter.add("qkdd_blocks_corrected_total", link=name, method=block.method)
        self._meter.set("qkdd_block_correction_efficiency_ratio", block.f_sec, link=name)
        self._meter.add("qkdd_secret_bits_total", block.length, link=name)
        self._meter.set("qkdd_secret_key_rate_bits_per_second", block.length / block.acquisition_s, link=name)
        self._meter.set("qkdd_block_leak_bits", block.leak, link=name)
        self._meter.observe("qkdd_block_processing_seconds", processing_s, link=name)
        self._meter.set("qkdd_link_qber_ratio", block.qber, link=name)
        self._meter.add("qkdd_link_up_seconds_total", block.acquisition_s, link=name)
        label = {"label": block.label} if block.label else {}
        _LOG.info(
            "block accepted", link=name, block=block.number, bits=block.length, qber=round(block.qber, 5), **label
        )

    def refused(
        self, number: int, code: str, sifted: int, acquisition_s: float, processing_s: float, error: QkddError
    ) -> None:
        """A block was discarded on both nodes. `code` is the reason, wherever it arose."""
        errors, opened = error.details.get("test_errors"), error.details.get("test_size")
        qber = errors / opened if isinstance(errors, int) and isinstance(opened, int) and opened else None
        tolerated = error.details.get("tolerated_error")
        self._status.add_block(
            BlockRecord(
                number=number,
                wall=self._clock.wall(),
                accepted=False,
                code=code,
                sifted=sifted,
                qber=qber,
                tolerated=tolerated if isinstance(tolerated, float) else None,
                length=0,
                leak=None,
                f_sec=None,
                acquisition_s=acquisition_s,
                processing_s=processing_s,
                reason=error.message,
            )
        )
        self._meter.add("qkdd_blocks_refused_total", link=self._name, code=code)
        if qber is not None:
            self._meter.set("qkdd_link_qber_ratio", qber, link=self._name)
        _LOG.warning(
            "block refused", **{**log.error_fields(error), "link": self._name, "block": number, "refusal": code}
        )
