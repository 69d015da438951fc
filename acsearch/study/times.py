"""Moments: always with a time zone, kept in UTC, and shown in the local time of whoever looks."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def stamp() -> str:
    """This moment as it is kept, in ISO format to the second: `2026-01-01T12:00:00+00:00`."""
    return now().isoformat(timespec="seconds")


def parse(text: str) -> datetime:
    """A moment that was kept, in local time.

    Args:
        text: in ISO format. Earlier versions left the time zone out; see `localised`.

    Raises:
        ValueError: it is no moment.
    """
    return localised(datetime.fromisoformat(text))


def localised(moment: datetime) -> datetime:
    """A moment in local time.

    Args:
        moment: one without a time zone is taken for a local time, as Optuna gives them. So are those that an earlier
            version kept: which zone they were of is not known.

    Raises:
        ValueError: it is no moment of local time.
    """
    return _moved(moment, None)


def in_utc(moment: datetime) -> datetime:
    """A moment in UTC; see `localised`."""
    return _moved(moment, UTC)


def without_zone(moment: datetime) -> datetime:
    """A moment as Optuna takes it: in local time, without the zone."""
    return localised(moment).replace(tzinfo=None)


def _moved(moment: datetime, zone: tzinfo | None) -> datetime:
    try:
        return moment.astimezone(zone)
    except OverflowError as error:
        raise ValueError(f"{moment} is no time here") from error
