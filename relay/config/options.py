"""What every section of the configuration has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, SecretStr


class Options(BaseModel):
    """A section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )


def only_one(**given: SecretStr | None) -> str:
    """Return the one value that is given among several ways to give it."""
    values = [value for value in given.values() if value is not None]
    if len(values) != 1:
        raise ValueError(f"give {'one' if not values else 'only one'} of {', '.join(given)}")
    return values[0].get_secret_value()
