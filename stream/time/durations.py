"""A length of time as people write it in a configuration: ``90m``, ``6h``, ``3d``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema

from driftgraph.stream.time.clock import duration_ms_of

UNIT_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
YEARS_MAX = 1_000  # longer is a typing error, and milliseconds must stay inside an int64


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A whole number of milliseconds, never negative. ``str`` writes it with the largest unit that fits."""

    ms: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``90m``, ``1.5h``, ``250ms``.

        Raises:
            ValueError: If there is no unit, the unit is unknown, or it is longer than ``YEARS_MAX`` years.
        """
        try:
            ms = duration_ms_of(text)
        except ValueError:
            raise ValueError('should be a number and a unit, such as "90s", "15m", "6h" or "3d"') from None
        except OverflowError:  # hundreds of digits
            ms = 1 << 63
        if ms > YEARS_MAX * 365 * UNIT_MS["d"]:
            raise ValueError(f"should be at most {YEARS_MAX} years")
        return cls(ms)

    def __str__(self) -> str:
        unit, unit_ms = next((u, m) for u, m in UNIT_MS.items() if self.ms % m == 0 and (self.ms or u == "s"))
        return f"{self.ms // unit_ms}{unit}"


def _read(value: object) -> Duration:
    if isinstance(value, Duration):
        return value
    if isinstance(value, str):
        return Duration.parse(value)
    raise ValueError('should be text with a unit, such as "90m", "6h" or "3d"')


def _positive(value: Duration) -> Duration:
    if value.ms == 0:
        raise ValueError("should be longer than zero")
    return value


def positive_duration(value: object) -> Duration:
    """A value of the configuration as a duration that is longer than zero.

    Raises:
        ValueError: It is none.
    """
    return _positive(_read(value))


# What a field of the configuration is declared with: text in the file, a Duration in the program.
DurationField = Annotated[
    Duration,
    PlainValidator(_read),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]
PositiveDurationField = Annotated[DurationField, AfterValidator(_positive)]
