"""The generated pages are fresh and complete."""

from __future__ import annotations

import re
from pathlib import Path

from qkdd.node.docs import all_errors, pages

DOCS = Path(__file__).parents[2] / "docs"


def test_pages_are_fresh() -> None:
    stale = [
        name
        for name, render in pages().items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != render()
    ]
    assert not stale, "run `python -m qkdd.node.docs`"


def test_no_page_of_a_code_that_is_gone() -> None:
    assert {path.stem for path in (DOCS / "errors").glob("QKD-*.md")} == set(all_errors())


def test_alerts_on_error_pages_exist() -> None:
    rules = (DOCS.parent / "monitoring/rules/qkdd.yml").read_text(encoding="utf-8")
    for path in (DOCS / "errors").glob("QKD-*.md"):
        for alert in re.findall(r"^Alert: (\w+)\.", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert f"alert: {alert}\n" in rules, path.name


def test_every_error_has_code_meaning_and_remedy_on_the_page() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    errors = all_errors()
    assert len(errors) > 60
    for code, kind in errors.items():
        assert f"### {code}\n" in page
        assert kind.meaning in page
        assert kind.default_remedy in page


def test_the_configuration_page_names_every_section_and_key() -> None:
    """docs/configuration.md is written by hand; no key may be missing in it."""
    import msgspec

    from qkdd.core.config import Section
    from qkdd.node.config import NodeConfig

    page = (DOCS / "configuration.md").read_text(encoding="utf-8")

    def keys(kind: type[Section]) -> list[str]:
        found = []
        for field in msgspec.structs.fields(kind):
            found.append(field.encode_name)
            for part in (field.type, *getattr(field.type, "__args__", ())):
                if isinstance(part, type) and issubclass(part, Section):
                    found += keys(part)
        return found

    assert not [
        key for key in keys(NodeConfig) if f"`{key}`" not in page and f"[{key}" not in page and f".{key}]" not in page
    ]


def test_the_table_of_bad_input_names_codes_and_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "bad-input.md").read_text()
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page))
    assert len(named) > 30
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (root / file).read_text()]
    assert not missing, missing
    codes = set(re.findall(r"`(QKD-[A-Z-]+)`", page))
    assert codes
    assert codes <= set(all_errors()), codes - set(all_errors())
