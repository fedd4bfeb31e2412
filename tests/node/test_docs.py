"""The generated pages are fresh and complete."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkdd.node.docs import PAGES, all_errors

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_pages_are_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == PAGES[name](), "run `python -m qkdd.node.docs`"


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
