"""Prompts: a template filled with the name of a class."""

from __future__ import annotations

from collections.abc import Callable

Template = str | Callable[[str], str]
DEFAULT_TEMPLATE = "a photo of a {}."


def fill(template: Template, name: str) -> str:
    """The prompt. In a string every ``{}`` becomes the name; other braces, in the template or in the name, stay."""
    return template.replace("{}", name) if isinstance(template, str) else template(name)


def has_place_for_name(template: object) -> bool:
    """Whether ``template`` is a string with ``{}`` in it."""
    return isinstance(template, str) and "{}" in template
