"""Which proofs there are, what each of them says, and what the operator must guarantee for it: the registry of modes.

Pure data: the same words stand in `qkdctl link security`, in reports and in docs/security.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from qkdd.security.errors import ProofInputError

NOT_STRICT = "not a strict bound"
DEFAULT_DECOY_MODE = "bb84-2decoy/vl"

Status = Literal["production", "compatibility", "experimental", "diagnostic"]
LengthKind = Literal["fixed", "variable", "observed", "asymptotic", "none"]


class Assumption(msgspec.Struct, frozen=True):
    """Something that the proof takes for granted. needs: numbers that the operator has to measure and configure."""

    id: str
    text: str
    needs: tuple[str, ...] = ()


class Mode(msgspec.Struct, frozen=True):
    """One proof.

    label: to be shown wherever a length from this mode is shown, empty if there is nothing to add. length: "fixed" before the
    block, "variable" with the observed counts (both proved), "observed" without a theorem that covers it, "asymptotic", or
    "none". intensities: of a decoy source, 0 without one.
    """

    id: str
    protocol: str
    title: str
    status: Status
    strict: bool
    label: str
    length: LengthKind
    attacks: Literal["coherent", "collective", "none"]
    intensities: int
    source: str
    assumptions: tuple[Assumption, ...]
    caveats: tuple[str, ...] = ()


_SITE = (
    Assumption("closed-rooms", "Both nodes, their rooms and the key managers are closed to the adversary."),
    Assumption(
        "randomness",
        "Bases, bits, intensities, test positions and hash seeds come from sound, independent random numbers.",
    ),
    Assumption(
        "authentic-channel",
        "Authentication holds: the certificates were not forged at the first contact, later tags cost key.",
    ),
    Assumption(
        "squashing", "A double click is given a random bit and kept; no detection is dropped because of what it shows."
    ),
    Assumption(
        "dead-time",
        "After a click all detectors are blanked for the longest dead time, so that no detector is dead alone.",
        ("dead_time",),
    ),
    Assumption(
        "detector-control", "No light from outside controls the detectors (blinding, after-gate, time-shift attacks)."
    ),
)
_SOURCE = (
    Assumption(
        "phase-random",
        "The optical phase of each pulse is uniformly random and independent of every other pulse's.",
    ),
    Assumption(
        "intensities",
        "Mean photon numbers at the transmitter's exit are known, stay inside their narrow characterised intervals (no term "
        "covers what remains) and do not depend on basis, bit or earlier pulses.",
        ("mu", "intensity_intervals"),
    ),
    Assumption(
        "choice-probabilities",
        "Each intensity is chosen independently with its configured probability; the probabilities do not drift.",
        ("p",),
    ),
    Assumption(
        "single-mode",
        "Basis, bit and intensity leave no trace in wavelength, timing, shape or polarization (no side channel).",
    ),
    Assumption("trojan", "Light sent into the transmitter comes back too weak to tell a setting (isolation, filters)."),
    Assumption(
        "block-of-pulses",
        "A block is a fixed number of pulses; bases and intensities are announced only after its last detection is registered.",
        ("block_pulses",),
    ),
)
_EQUAL_DETECTORS = Assumption(
    "equal-detectors",
    "The chance to detect a photon does not depend on the basis: both detectors have the same efficiency and dark counts.",
)
_FIXED_BUDGET = Assumption(
    "thresholds",
    "Key size, thresholds, leak budget and length are fixed before the block; afterwards it is only accepted or aborted.",
    ("n_key", "s_key_1_min", "phi_max", "leak_max"),
)
_ERRORS_AFTER = Assumption(
    "errors-per-intensity",
    "The key basis's errors are counted per intensity after error correction, on verified key.",
)
_READ_IN_CODE = "The length formula was read in the authors' published program, not in the paper's text."
_APPROXIMATE = (
    "The printed random-sampling step is an approximation (E3), so the length is not a bound in the strict sense.",
    "The theorem fixes the length before the block; taking it from observed counts is customary and not covered (E10).",
)

_PAIRS = (
    *_SITE,
    _EQUAL_DETECTORS,
    Assumption(
        "equal-bases",
        "Both bases are equally likely and mutually unbiased; the imbalance is watched.",
        ("basis_imbalance_max",),
    ),
    Assumption("random-test", "The test positions are chosen at random after all detections of the block."),
    Assumption(
        "fixed-length",
        "Tolerated error, leak budget and length are fixed before the block; afterwards it is only accepted or refused.",
    ),
)

_ALL = (
    Mode(
        "bb84-2decoy/vl",
        "bb84-2decoy",
        "BB84, three intensities, length that follows the observed counts",
        "production",
        True,
        "",
        "variable",
        "coherent",
        3,
        "Tupkary, Nahar, Sinha, Luetkenhaus, Quantum 9, 1937 (2025)",
        (
            *_SITE,
            *_SOURCE,
            Assumption(
                "mismatch",
                "The largest relative differences of the detectors' efficiencies and dark counts are measured and configured.",
                ("efficiency_mismatch", "dark_count_mismatch", "dark_count_probability"),
            ),
            Assumption(
                "random-swap",
                "The receiver swaps the bit values of its two detectors at random each round; without it the mismatch costs "
                "about a hundred times more and the setting must say so.",
                ("random_swap",),
            ),
        ),
        (
            _READ_IN_CODE,
            "The composition 2 eps_AT + eps_PA + eps_EV is derived here from the leftover hash lemma (decision 0098); it was not "
            "compared with the paper's theorem.",
        ),
    ),
    Mode(
        "bb84-1decoy/wiesemann",
        "bb84-1decoy",
        "BB84, two intensities, fixed length with acceptance test",
        "production",
        True,
        "",
        "fixed",
        "coherent",
        2,
        "Wiesemann, Krause, Tupkary, Rusca, Walenta, Luetkenhaus, Quantum 10, 2037 (2026)",
        (*_SITE, *_SOURCE, _EQUAL_DETECTORS, _FIXED_BUDGET, _ERRORS_AFTER),
        (_READ_IN_CODE,),
    ),
    Mode(
        "bb84-2decoy/lim2014",
        "bb84-2decoy",
        "BB84, three intensities, as published in 2014",
        "compatibility",
        False,
        NOT_STRICT,
        "observed",
        "coherent",
        3,
        "Lim, Curty, Walenta, Xu, Zbinden, Phys. Rev. A 89, 022307 (2014)",
        (*_SITE, *_SOURCE, _EQUAL_DETECTORS),
        _APPROXIMATE,
    ),
    Mode(
        "bb84-1decoy/rusca2018",
        "bb84-1decoy",
        "BB84, two intensities, as published in 2018",
        "compatibility",
        False,
        NOT_STRICT,
        "observed",
        "coherent",
        2,
        "Rusca, Boaron, Gruenenfelder, Martin, Zbinden, Appl. Phys. Lett. 112, 171104 (2018)",
        (*_SITE, *_SOURCE, _EQUAL_DETECTORS, _ERRORS_AFTER),
        _APPROXIMATE,
    ),
    Mode(
        "bbm92/tl2017",
        "bbm92",
        "Entangled pairs, fixed length",
        "production",
        True,
        "",
        "fixed",
        "coherent",
        0,
        "Tomamichel, Leverrier, Quantum 1, 14 (2017)",
        _PAIRS,
    ),
    Mode(
        "bbm92/lim2021",
        "bbm92",
        "Entangled pairs, fixed length, small blocks",
        "production",
        True,
        "",
        "fixed",
        "coherent",
        0,
        "Lim, Xu, Pan, Ekert, Phys. Rev. Lett. 126, 100501 (2021)",
        _PAIRS,
    ),
    Mode(
        "e91",
        "e91",
        "CHSH value of an entangled link: diagnostic and abort test, the key comes from the BBM92 bound",
        "diagnostic",
        False,
        "diagnostic only",
        "none",
        "none",
        0,
        "Clauser, Horne, Shimony, Holt 1969; Acin et al., Phys. Rev. Lett. 98, 230501 (2007)",
        (
            Assumption(
                "fair-sampling",
                "The detected pairs are a fair sample of all pairs; no device-independent claim is possible.",
            ),
        ),
    ),
    Mode(
        "mdi",
        "mdi",
        "BB84 over an untrusted relay: asymptotic rate, length from given bounds",
        "experimental",
        False,
        "experimental: no finite-size estimator",
        "asymptotic",
        "coherent",
        3,
        "Xu, Curty, Qi, Lo, New J. Phys. 15, 113007 (2013); Curty et al., Nat. Commun. 5, 3732 (2014)",
        _SOURCE[:5],
    ),
    Mode(
        "sns-tf",
        "sns-tf",
        "Twin field, sending or not sending: asymptotic rate",
        "experimental",
        False,
        "experimental: no security claim",
        "asymptotic",
        "none",
        3,
        "Wang, Yu, Hu, Phys. Rev. A 98, 062323 (2018)",
        (Assumption("phase-reference", "Both transmitters share a phase reference and announce phase slices."),),
    ),
    Mode(
        "cv-gmcs",
        "cv-gmcs",
        "Continuous variables, Gaussian modulation, reverse reconciliation",
        "experimental",
        False,
        "collective attacks only",
        "asymptotic",
        "collective",
        0,
        "Lodewyck et al., Phys. Rev. A 76, 042305 (2007); Leverrier, Grosshans, Grangier, Phys. Rev. A 81, 062343 (2010)",
        (
            Assumption("collective", "The adversary attacks every symbol in the same way."),
            Assumption("gaussian-estimate", "Transmission and noise estimates are normally distributed."),
            Assumption(
                "trusted-detector",
                "If the detector is declared trusted, its efficiency and noise are measured and out of the adversary's reach.",
                ("eta", "vel"),
            ),
            Assumption("local-oscillator", "The local oscillator and the shot-noise calibration cannot be influenced."),
        ),
    ),
)

MODES: dict[str, Mode] = {mode.id: mode for mode in _ALL}


def mode(mode_id: str) -> Mode:
    """The mode of that id. Raises ProofInputError that names the known ones."""
    try:
        return MODES[mode_id]
    except KeyError:
        raise ProofInputError(f"no proof is called {mode_id!r}; known: {', '.join(MODES)}", name="proof") from None
