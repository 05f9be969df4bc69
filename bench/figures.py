"""How figures are summed up and shown: medians with their range, quantiles, ratios of pairs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return what a share of the values, in order, don't exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], form: str) -> str:
    """Return the median and the range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def ratios(values: Sequence[float], base: Sequence[float], form: str = ".2f") -> str:
    """Return the ratio of each round's pair, as a spread."""
    return spread([one / other for one, other in zip(values, base, strict=True)], form)


def show(line: str) -> None:
    """Print at once, also into a pipe: some parts take long."""
    print(line, flush=True)
