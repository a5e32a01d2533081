"""The wording of the errors that several rooms share, and what passes without one."""

from __future__ import annotations

import pytest

from clipfast.common.argument_checks import check_choice, check_whole_number


def test_accepted_values_pass() -> None:
    check_choice("augment", "crop", ("crop", "none"))
    check_whole_number("workers", 0, 0)


def test_other_choices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^augment must be one of 'crop', 'none'; got 3$"):
        check_choice("augment", 3, ("crop", "none"))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_other_numbers_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=f"^k must be a whole number of at least 1; got {value!r}$"):
        check_whole_number("k", value, 1)
