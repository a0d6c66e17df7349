"""What can go wrong with a request; every error carries its status.

ServiceError
|- InvalidError       422  a field is wrong; names it
|- TooLargeError      413  more than a limit allows
|- UnknownModelError  404  no such model or version here
|- OverloadedError    429  the queue is full; says when to come back
|- NotReadyError      503  loading, failing or leaving
`- DeadlineError      504  nothing partial was allowed
"""

from __future__ import annotations


class ServiceError(Exception):
    """`field` is the path of the offending request field, where there is one."""

    status = 500
    title = "Internal error"

    def __init__(self, detail: str, *, field: str | None = None, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s


class InvalidError(ServiceError):
    status, title = 422, "Invalid request"


class TooLargeError(ServiceError):
    status, title = 413, "Request too large"


class UnknownModelError(ServiceError):
    status, title = 404, "Unknown model"


class OverloadedError(ServiceError):
    status, title = 429, "Too many requests"


class NotReadyError(ServiceError):
    status, title = 503, "Not ready"


class DeadlineError(ServiceError):
    status, title = 504, "Deadline exceeded"
