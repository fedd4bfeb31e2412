"""Evaluate a file of key-rate vectors: `python -m qkdd.security.vectors FILE [--json]`.

The file has `cases`, each with name, function, inputs, expected, tolerance; a value passes when
|got - expected| <= max(abs, rel |expected|), and `"expected": {"error": true}` wants the inputs refused. Exit status 1 when
a case fails or its function is unknown, 2 when the file cannot be read.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qkdd.security import accounting, bbm92, e91, entropy, mismatch
from qkdd.security.errors import ProofInputError

Values = dict[str, Any]
_INFORMATIVE = {"argmax"}  # flat optima: shown, not judged


class Outcome(msgspec.Struct, frozen=True):
    """Result of one case; `got` holds what was computed, or the refusal's text under `error`."""

    name: str
    function: str
    passed: bool
    expected: Values
    got: Values
    reason: str = ""


def _h2(x: list[float]) -> Values:
    return {"y": [entropy.h2(value) for value in x]}


def _chernoff(x: float, eps: float) -> Values:
    lower, upper = entropy.chernoff_obs_to_exp(x, eps)
    return {"lower": lower, "upper": upper}


def _mismatch(d_eta: float, d_dc: float, p_dc: float, random_swap: bool) -> Values:
    delta1, delta2 = mismatch.mismatch_deltas(d_eta, d_dc, p_dc, random_swap)
    return {"delta1": delta1, "delta2": delta2}


def _tlgr(**inputs: float) -> Values:
    length = bbm92.tlgr_length(**inputs)
    mu = bbm92.tlgr_mu(inputs["n"], inputs["k"], inputs["eps_sec"])
    return {"mu": mu, "l": length.l, "l_bits": length.l_bits}


def _tl(m: float, k: float, nu: float, delta: float, leak: float, t: float, eps_pa: float, cbar: float) -> Values:
    length = bbm92.tl2017_length(m, k, nu, delta, leak, t, eps_pa, cbar)
    total = bbm92.tl2017_eps_total(m, k, nu, delta, leak, t, length.l_bits, cbar)
    return {"l": length.l, "l_bits": length.l_bits, "eps_total_at_l": total}


def _lim21_optimum(m: int, delta: float, f_ec: float, eps: float, eps_cor: float) -> Values:
    entropy.check_epsilon("eps_cor", eps_cor)
    entropy.check_finite("f_ec", f_ec, low=1.0)
    rate = entropy.h2_bound(entropy.check_fraction("delta", delta, high=0.5))
    whole = entropy.check_count("m", m, low=2)
    choice = bbm92.lim21_choose(whole, delta, lambda n: f_ec * n * rate, -math.log2(eps_cor), eps - eps_cor)
    if choice is None:
        return {"l": 0.0, "l_bits": 0}
    return {"l": choice.length.l, "l_bits": choice.length.l_bits, "k": choice.k, "nu": choice.nu, "xi": choice.xi}


def _lim21_eps(**inputs: float) -> Values:
    result = bbm92.lim21_eps(**inputs)
    return {"eps_cor": result.eps_cor, "eps_pe": result.eps_pe, "eps_pa": result.eps_pa, "total": result.total}


def _chsh(quads: list[list[float]], eps: float) -> Values:
    result = e91.chsh(quads, eps)
    return {"S": result.s, "sigma": result.sigma, "S_lower": result.s_lower, "chi": result.chi}


def _visibility(v_z: float, v_x: float) -> Values:
    result = e91.visibility(v_z, v_x)
    return {
        "qber_z": result.qber_z,
        "qber_x": result.qber_x,
        "werner_f": result.werner_f,
        "fidelity_lower": result.fidelity_lower,
    }


def _device_independent_threshold(f_ec: float) -> Values:
    """Error rate at which di_rate crosses 0 with S = 2 sqrt(2) (1 - 2Q) (Acin et al. 2007)."""
    low, high = 0.0, 0.14
    while high - low > 1e-12:
        middle = (low + high) / 2.0
        positive = e91.di_rate(middle, e91.TSIRELSON * (1.0 - 2.0 * middle), f_ec) > 0.0
        low, high = (middle, high) if positive else (low, middle)
    return {"qber": low}


FUNCTIONS: dict[str, Callable[..., Values]] = {
    "h2": _h2,
    "gamma_fung": lambda eps, b, c, d: {"gamma": entropy.gamma_fung(eps, b, c, d)},
    "gamma_serfling": lambda eps, n_key, k_test: {"gamma": entropy.gamma_serfling(eps, n_key, k_test)},
    "chernoff_obs_to_exp": _chernoff,
    "hypergeom_upper": lambda **inputs: {"errors_key_upper": entropy.hypergeom_upper(**inputs)},
    "mismatch_deltas": _mismatch,
    "tlgr_length": _tlgr,
    "tl_length": _tl,
    "lim21_optimum": _lim21_optimum,
    "lim21_eps": _lim21_eps,
    "chsh": _chsh,
    "di_rate": lambda q, s, f_ec: {"rate": e91.di_rate(q, s, f_ec)},
    "visibility": _visibility,
    "figure:acin2007": _device_independent_threshold,
    "verify_tag_bits_2universal": lambda eps_cor: {"bits": accounting.verify_tag_bits_2universal(eps_cor)},
    "poly_hash_collision": lambda n_bits, tag_bits: {"eps": accounting.poly_hash_collision(n_bits, tag_bits)},
    "pa_length": lambda hmin, eps_pa: {"l": accounting.pa_length(hmin, eps_pa)},
    "max_blocks": lambda **inputs: {"blocks": accounting.max_blocks(**inputs)},
}


def _within(got: object, expected: object, tolerance: Mapping[str, Any]) -> bool:
    if isinstance(expected, list):
        return (
            isinstance(got, list)
            and len(got) == len(expected)
            and all(_within(g, e, tolerance) for g, e in zip(got, expected, strict=True))
        )
    if isinstance(expected, bool) or not isinstance(expected, (int, float)):
        return got == expected
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        return False
    bound = max(float(tolerance.get("abs", 0.0)), float(tolerance.get("rel", 0.0)) * abs(expected))
    return abs(got - expected) <= bound  # False for NaN


def evaluate(case: Mapping[str, Any]) -> Outcome:
    """Run one case. An exception other than a refusal of the inputs is a defect and passes through."""
    name, function = str(case.get("name", "?")), str(case.get("function", "?"))
    expected, tolerance = dict(case.get("expected", {})), dict(case.get("tolerance", {}))
    wants_error = expected.get("error") is True
    evaluator = FUNCTIONS.get(function)
    if evaluator is None:
        return Outcome(name, function, False, expected, {}, "unknown function")
    try:
        got = evaluator(**{key: value for key, value in dict(case.get("inputs", {})).items() if key != "why"})
    except ProofInputError as error:
        return Outcome(
            name, function, wants_error, expected, {"error": error.message}, "" if wants_error else "refused"
        )
    except TypeError as error:  # a name that the function does not know, or one that is missing
        return Outcome(name, function, wants_error, expected, {"error": str(error)}, "" if wants_error else "inputs")
    if wants_error:
        return Outcome(name, function, False, expected, got, "should have been refused")
    wrong = [
        key
        for key, value in expected.items()
        if key not in _INFORMATIVE and (key not in got or not _within(got[key], value, tolerance))
    ]
    return Outcome(name, function, not wrong, expected, got, f"differs: {', '.join(wrong)}" if wrong else "")


def evaluate_file(path: Path) -> list[Outcome]:
    """All cases of a file. Raises ProofInputError if it is no such file."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        cases = tree["cases"]
        if not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
            raise ProofInputError(f"{path}: `cases` is no list of objects", name="cases")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProofInputError(f"{path}: {error}", name="file") from None
    return [evaluate(case) for case in cases]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m qkdd.security.vectors", description="Check key-rate vectors.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args(arguments)
    try:
        outcomes = evaluate_file(options.file)
    except ProofInputError as error:
        print(error, file=sys.stderr)
        return 2
    passed = sum(outcome.passed for outcome in outcomes)
    if options.json:
        document = {"passed": passed, "failed": len(outcomes) - passed, "cases": outcomes}
        print(msgspec.json.encode(document).decode())
    else:
        for outcome in outcomes:
            print(
                f"{'pass' if outcome.passed else 'FAIL'}  {outcome.name} ({outcome.function}) {outcome.reason}".rstrip()
            )
            print(f"      got {outcome.got}\n      expected {outcome.expected}")
        print(f"{passed} of {len(outcomes)} cases pass")
    return 0 if passed == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
