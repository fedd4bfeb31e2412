"""Evaluate a file of key-rate vectors: `python -m qkdd.security.vectors FILE [--json]`.

The file has `cases`, each with name, function, inputs, expected, tolerance; a value passes when
|got - expected| <= max(abs, rel |expected|), and `"expected": {"error": true}` wants the inputs refused. Exit status 1 when
a case fails or its function is unknown, 2 when the file cannot be read.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from qkdd.security.errors import ProofInputError
from qkdd.security.vector_functions import FUNCTIONS, Values, check_given

_COMMENTS = {"why", "optimised"}  # words for people, not inputs
_INFORMATIVE = {"argmax"}  # flat optima: shown, not judged


class Outcome(msgspec.Struct, frozen=True):
    """Result of one case; `got` holds what was computed, or the refusal's text under `error`."""

    name: str
    function: str
    passed: bool
    expected: Values
    got: Values
    reason: str = ""


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


def _run(evaluator: Callable[..., Values], given: Mapping[str, Any]) -> Values:
    """What the function says; a value of another type than it takes, or too large for a double, is refused."""
    try:
        return evaluator(**given)
    except (TypeError, OverflowError) as error:
        raise ProofInputError(f"{type(error).__name__}: {error}", name="inputs") from None


def _checked(function: str) -> Callable[..., Values]:
    def check(**inputs: Any) -> Values:
        check_given(function, inputs)
        return {}

    return check


def evaluate(case: Mapping[str, Any]) -> Outcome:
    """Run one case. Inputs that are missing, unknown, `null`, of a wrong type or beyond every number, and refusals by the proof
    count as a refusal of the inputs; any other exception is a defect of the function and fails the case, whatever was
    expected. A case that is none fails as well."""
    name, function = str(case.get("name", "?")), str(case.get("function", "?"))
    parts = {key: case.get(key, {}) for key in ("inputs", "expected", "tolerance")}
    for key, part in parts.items():
        if not isinstance(part, dict):
            return Outcome(name, function, False, {}, {}, f"{key} is no object")
    expected, tolerance = dict(parts["expected"]), dict(parts["tolerance"])
    for key in ("abs", "rel"):
        value = tolerance.get(key, 0.0)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return Outcome(name, function, False, expected, {}, f"tolerance {key} is no number")
    wants_error = expected.get("error") is True
    evaluator = FUNCTIONS.get(function)
    if evaluator is None:
        return Outcome(name, function, False, expected, {}, "unknown function")
    given = {key: value for key, value in parts["inputs"].items() if key not in _COMMENTS and value is not None}
    try:
        _run(_checked(function), given)
        try:
            inspect.signature(evaluator).bind(**given)
        except TypeError as error:  # a name that the function does not know, or one that is missing
            raise ProofInputError(str(error), name="inputs") from None
        got = _run(evaluator, given)
    except ProofInputError as error:
        return Outcome(
            name,
            function,
            wants_error,
            expected,
            {"error": error.message, "code": error.code},
            "" if wants_error else "refused",
        )
    except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
        return Outcome(name, function, False, expected, {"error": f"{type(error).__name__}: {error}"}, "defect")
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
        if not isinstance(cases, list):
            raise ProofInputError(f"{path}: `cases` is no list", name="cases")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProofInputError(f"{path}: {error}", name="file") from None
    return [
        evaluate(case) if isinstance(case, dict) else Outcome("?", "?", False, {}, {}, "the case is no object")
        for case in cases
    ]


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
