"""What a user can mend: one base class, so that the command line prints one line and a notebook catches one name."""

from __future__ import annotations


class UserError(Exception):
    """The message says what is wrong, where, and what to change."""


class FitError(UserError):
    """A training ended, but what it gave cannot be used."""
