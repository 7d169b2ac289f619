"""The four kinds of fault of STYLE: a peer's, our own, a broken environment, and a bad configuration.

An ordinary refusal (over budget, expired, cannot carry) is none of them: it is a result enum beside the
code that decides it. Nothing here logs or prints; ``str(error)`` is the one line that a user sees.
"""

from __future__ import annotations


class BillpayError(Exception):
    """Base of everything that this project raises on purpose."""


class RemoteProtocolError(BillpayError):
    """A peer sent what it must not send. ``code`` is stable and machine readable, ``message`` is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class LocalProtocolError(BillpayError):
    """We were about to send what must not be sent: our own bug, caught before it left."""


class EnvironmentFault(BillpayError):  # noqa: N818 (not an error of ours: the project's own word for it)
    """The machine refused something that we need: which operation, on what, why, and what the user can do."""

    def __init__(self, operation: str, target: str, cause: object, remedy: str = "") -> None:
        super().__init__(operation, target, cause, remedy)
        self.operation = operation
        self.target = target
        self.cause = cause
        self.remedy = remedy

    def __str__(self) -> str:
        return _one_line(f"{self.operation} {self.target}: {self.cause}", self.remedy)


class ConfigurationError(BillpayError):
    """A configuration file says what it must not say: which file, which key, the problem and the remedy."""

    def __init__(self, file: object, key: str, problem: str, remedy: str = "") -> None:
        super().__init__(file, key, problem, remedy)
        self.file = str(file)
        self.key = key
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return _one_line(f"{where}: {self.problem}", self.remedy)


def _one_line(fault: str, remedy: str) -> str:
    """Joins what is wrong and what to do; line breaks of a cause (an OSError, a parser) become spaces."""
    text = f"{fault} ({remedy})" if remedy else fault
    return " ".join(text.split())
