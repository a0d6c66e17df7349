"""Why a teaching job stops; one class, so that a notebook catches one name."""

from training.errors import UserError


class TeacherError(UserError):
    """The job cannot go on; the message says what to change. What was received stays in the journal."""
