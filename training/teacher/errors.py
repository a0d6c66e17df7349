"""Why a teaching job stops; one class, so that the command prints one line and a notebook catches one name."""


class TeacherError(Exception):
    """The job cannot go on; the message says what to change. What was received stays in the journal."""
