"""Errors of a single row."""

from __future__ import annotations

from rung.errors import DataError


class InvalidRowError(Exception):
    """What is wrong with a row, without its location, which only the caller knows.

    Attributes:
        needs_fields: As for `InvalidFieldsError`.
    """

    def __init__(self, problem: str, *, needs_fields: bool = False) -> None:
        super().__init__(problem)
        self.needs_fields = needs_fields

    def at(self, location: str) -> DataError:
        """The error for the user."""
        error = InvalidFieldsError if self.needs_fields else DataError
        return error(f"{location}: {self}.")


class InvalidFieldsError(DataError):
    """The fields of a row have other names than Rung knows; the remedy is `--fields`.

    All rows of a file have the same fields, so it does not help to skip this one.
    """
