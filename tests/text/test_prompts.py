"""Prompts: where the name goes, and which templates have a place for it."""

from __future__ import annotations

from functools import partial

from clipfast.text.prompts import fill, has_place_for_name


def test_the_name_replaces_empty_braces() -> None:
    assert fill("a {} or {}", "{x}") == "a {x} or {x}"
    assert fill(partial(str.replace, "a photo of NAME", "NAME"), "cat") == "a photo of cat"


def test_a_template_has_a_place_for_the_name() -> None:
    assert has_place_for_name("a {}")
    assert not any(map(has_place_for_name, ("a photo", "a {name}", "", None, 3)))
