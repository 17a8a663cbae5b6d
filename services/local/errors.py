"""Errors of the `quanyu` command."""


class LocalError(Exception):
    """An error that the user can correct. The message is one line with the remedy; `status` is the exit status of the command."""

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
