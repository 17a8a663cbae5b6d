"""What the command says when it cannot do what it was asked."""


class LocalError(Exception):
    """The message is one line for a person and says what to do; `status` is the command's exit status."""

    def __init__(self, message: str, *, status: int = 2) -> None:
        super().__init__(message)
        self.status = status
