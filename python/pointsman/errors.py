"""What goes wrong, by name. Every message is one line: the thing, what is wrong with it, what to do."""

from __future__ import annotations


class Error(Exception):
    """`code`: kInvalidArgument, kMismatch, ... as memory/result.h names them, without the k, in lower case."""

    def __init__(self, message: str, code: str = "invalid_argument") -> None:
        super().__init__(message)
        self.code = code


class MismatchError(Error):
    """A memory and a model that do not belong together; the message has both values."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "mismatch")


class RejectedError(Error):
    """A memory whose own verdict is `reject`."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "rejected")


class UnsupportedError(Error):
    """A model, router or version that this host adapter does not know."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "unsupported")
