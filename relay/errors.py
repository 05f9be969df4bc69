"""The exceptions that somebody catches. Everything else is a bug and may end the process."""

from __future__ import annotations


class RelayError(Exception):
    """Something went wrong that the relay can explain to a person in one sentence."""


class ConfigError(RelayError):
    """A configuration can't be used.

    Attributes:
        problems: every problem found, each as `file:line:column: path: what is wrong`.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BadPayloadError(RelayError):
    """A request's body is not a JSON object that the relay can keep and route.

    Attributes:
        reason: a word from a closed set, stored with the quarantined copy.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooManyLoginsError(RelayError):
    """A login can't be checked now: too many wait for it."""


class StoreError(RelayError):
    """The store can't be opened, or refused one item for good."""


class StoreUnavailableError(StoreError):
    """The store can't take anything now: nothing of the operation was stored, and it may be tried again."""
