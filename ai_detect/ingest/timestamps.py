"""Timestamps of log headers, in whatever shape, to nanoseconds since the epoch.

A time is read as UTC unless it carries an offset; named zones other than UTC are taken for UTC too (their abbreviations
are ambiguous, and a constant shift changes no gap between lines).
"""

from __future__ import annotations

import re
from datetime import date
from typing import NamedTuple

import numpy as np

from ai_detect.tables import NO_TIME

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_FRACTION = tuple(10 ** (9 - n) for n in range(10))
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS = {name: number for number, name in enumerate(_MONTH_NAMES, start=1)}
_MAX_CACHED = 1 << 17
_MAX_TEXT = 80
_AROUND_DATE = " ,[]()|"
#: A clock without a date that falls back by more than this is one of the next day.
HALF_DAY = _DAY // 2

_CLOCK = re.compile(r"(?<!\d)((\d{1,2})([:.])(\d{1,2})\3(\d{1,2}))(?:([.,:])(\d{1,9})\d*)?(?: ?([AaPp])\.?[Mm]\b)?")
_COMPACT = re.compile(r"(\d{6}|\d{8})[ T_-]?((\d\d)(\d\d)(\d\d))(?:([.,])(\d{1,9}))?(?!\d)")
_EPOCH = re.compile(r"(\d{9,10}|\d{13}|\d{16}|\d{19})(?:\.(\d{1,9}))?")
_SINCE_START = re.compile(r"(\d{1,9})\.(\d{6})")
_DATES = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?P<Y>\d{4})[-/.](?P<m>\d{1,2})[-/.](?P<d>\d{1,2})(?!\d)",
        r"(?P<Y>\d{4})(?P<m>\d\d)(?P<d>\d\d)(?!\d)",
        r"(?P<d>\d{1,2})[-/ ](?P<b>[A-Z][a-z]{2})[a-z]*(?:[-/ ](?P<Y>\d{4}))?",
        r"(?:[A-Z][a-z]{2,8},? +)?(?P<b>[A-Z][a-z]{2})[a-z]* +(?P<d>\d{1,2})(?!\d)(?:,? +(?P<Y>\d{4}))?",
        r"(?P<y>\d\d)/(?P<m>\d\d)/(?P<d>\d\d)(?!\d)",
        r"(?P<m>\d{1,2})[-/](?P<d>\d{1,2})[-/](?P<Y>\d{4})",
        r"(?P<y>\d\d)(?P<m>\d\d)(?P<d>\d\d)(?!\d)",
        r"(?P<m>\d\d)[-.](?P<d>\d\d)(?!\d)",
        r"(?P<m>\d\d)(?P<d>\d\d)(?!\d)",
    )
)
_ZONE = re.compile(r"[T :]*([+-])(\d\d):?(\d\d)(?!\d)")


class ClockState(NamedTuple):
    """What of the lines before a time that is not whole depends on."""

    year: int = 1970
    day_of_year: int | None = None  # of the last date without a year, its months counted as 31 days
    day: int = 0  # of a clock without a date
    last_clock: int = 0  # ns
    order: tuple[int, ...] = ()  # in which the fields of a header string are tried

    def year_at(self, day_of_year: int) -> int:
        """The year of the next date, which has none."""
        if self.day_of_year is None:
            return self.year
        leap = day_of_year - self.day_of_year
        return min(max(self.year + (leap < -31) - (leap > 340), 1900), 2200)

    def day_at(self, clock: int) -> int:
        """The day of the next clock, which has no date."""
        return self.day + (clock < self.last_clock - HALF_DAY)


AT_FIRST = ClockState()


class TimeParser:
    """Parses the times of one log in order; the state is what a time that is not whole depends on.

    A date without a year begins in 1970; the year goes up where the date falls back by more than a month (December to
    January) and down where it leaps by more than eleven (a late line of December). A clock without a date begins on the
    first day of 1970 and goes on to the next where it falls back by more than half a day. So the result depends on the
    log alone, not on when it is read.
    """

    def __init__(self, state: ClockState = AT_FIRST) -> None:
        """Go on from `state`; the first date without a year, as in it, and the first clock without a date are noted."""
        self._clocks: dict[str, int | None] = {}
        self._days: dict[str, int | None] = {}
        self._yearless: tuple[str, int] = ("", 0)
        self.state = state
        self.first_day_of_year: int | None = None
        self.first_clock: int | None = None

    def __call__(self, text: str) -> int | None:
        """Nanoseconds since the epoch, UTC; None where `text` holds no time."""
        if len(text) > _MAX_TEXT:
            text = text[:_MAX_TEXT]
        match = _CLOCK.search(text)
        if match is None:
            return self._without_separators(text)
        clock_text, _, _, _, _, dot, digits, half = match.groups()
        clock = self._clocks.get(clock_text)
        if clock is None and (clock := self._clock(clock_text, match[2], match[4], match[5])) is None:
            return None
        if digits is not None:
            # HealthApp writes milliseconds after a colon, not padded
            clock += int(digits) * (_FRACTION[len(digits)] if dot != ":" else 1_000_000)
        if half is not None:
            clock += HALF_DAY * ((half in "Pp") - (clock_text.startswith("12")))
        date_text = text[: match.start()] + text[match.end() :]
        day = self._days.get(date_text)
        if day is None and (day := self._resolve(date_text, clock)) is None:
            return None
        return day + clock

    def _clock(self, text: str, *parts: str) -> int | None:
        hour, minute, second = map(int, parts)
        if hour > 24 or minute > 59 or second > 60:
            return None
        value = (hour * 3600 + minute * 60 + second) * _SECOND
        self._clocks[text] = value
        return value

    def _without_separators(self, text: str) -> int | None:
        if compact := _COMPACT.match(text):
            date_text, clock_text, _, _, _, _, digits = compact.groups()
            clock = self._clocks.get(clock_text)
            if clock is None:
                clock = self._clock(clock_text, compact[3], compact[4], compact[5])
            day = self._days.get(date_text)
            if day is None:
                day = self._resolve(date_text, 0)
            if clock is not None and day is not None:
                return day + clock + (int(digits) * _FRACTION[len(digits)] if digits else 0)
        if epoch := _EPOCH.fullmatch(text):
            scale = 10 ** max(0, 19 - max(10, len(epoch[1])))
            value = int(epoch[1]) * scale
            if epoch[2] and scale == _SECOND:
                value += int(epoch[2]) * _FRACTION[len(epoch[2])]
            return value if value < 1 << 63 else None
        if since := _SINCE_START.fullmatch(text.strip()):
            return int(since[1]) * _SECOND + int(since[2]) * 1000
        return None

    def _resolve(self, text: str, clock: int) -> int | None:
        """Midnight UTC of a date whose text is not cached."""
        stripped = text.strip(_AROUND_DATE).rstrip("T")
        if not stripped:
            if self.first_clock is None:
                self.first_clock = clock
            before = self.state
            self.state = ClockState(before.year, before.day_of_year, before.day_at(clock), clock, before.order)
            return self.state.day * _DAY
        if stripped == self._yearless[0]:
            return self._yearless[1]
        for pattern in _DATES:
            if match := pattern.match(stripped):
                parts = match.groupdict()
                month = _MONTHS.get(parts["b"].lower(), 0) if "b" in parts else int(parts["m"])
                value = self._midnight(parts.get("Y"), parts.get("y"), month, int(parts["d"]), stripped)
                if value is None:
                    continue
                if zone := _ZONE.match(stripped, match.end()):
                    offset = (int(zone[2]) * 3600 + int(zone[3]) * 60) * _SECOND
                    value += offset if zone[1] == "-" else -offset
                if stripped != self._yearless[0]:  # a date without a year means another day after each turn of the year
                    if len(self._days) >= _MAX_CACHED:
                        self._days.clear()
                    self._days[text] = value
                return value
        return None

    def _midnight(self, year: str | None, short_year: str | None, month: int, day: int, text: str) -> int | None:
        if month > 12 >= day and year is not None:
            month, day = day, month
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return None
        if year is not None or short_year is not None:
            number = int(year or short_year or 0)
            if year is None:
                number += 1900 if number >= 69 else 2000
            # int64 nanoseconds end in 2262
            return _days(number, month, day) * _DAY if 1700 <= number <= 2260 else None
        day_of_year = month * 31 + day
        if self.first_day_of_year is None:
            self.first_day_of_year = day_of_year
        self.state = self.state._replace(year=self.state.year_at(day_of_year), day_of_year=day_of_year)
        value = _days(self.state.year, month, day) * _DAY
        self._yearless = (text, value)
        return value


class TimeShape(NamedTuple):
    """A time that was read, for times that differ from it in the digits of their clock alone; of length 0 for none.

    Its bytes are in words of eight, as compiled code reads them.
    """

    text: np.ndarray  # (n,) uint64
    is_fixed: np.ndarray  # (n,) uint64: all bits of the bytes that another time has in common with it
    is_digit: np.ndarray  # (n,) uint64: the highest bit of the digits of the clock
    # (11,) int64: length; where hour, minute, second and fraction begin; digits of the fraction and what they count
    # (ns); the time (ns) at zero o'clock; 1 where there is no date; the clock (ns); 1 where the date has a year
    numbers: np.ndarray

    @classmethod
    def none(cls) -> TimeShape:
        """No time."""
        text, is_fixed, is_digit = (np.zeros(_MAX_TEXT // 8, np.uint64) for _ in range(3))
        return cls(text, is_fixed, is_digit, np.zeros(11, np.int64))

    @property
    def is_whole(self) -> bool:
        """Whether the time does not depend on those before it."""
        return bool(self.numbers[10])


def time_shape(text: str, time: int) -> TimeShape:
    """What a `TimeParser` that has just made `time` of `text` will make of texts with another clock.

    None where there is no time, or parts without two digits. A clock without a date stays on its day unless it falls
    back by more than `HALF_DAY`. The parser looks at classes of characters, of which the digits are one; so at other
    digits it finds the same parts.
    """
    shape = TimeShape.none()
    if time == NO_TIME or len(text) > _MAX_TEXT or not text.isascii():
        return shape
    if clock := _CLOCK.search(text):
        spans = [clock.span(group) for group in (2, 4, 5)]
        fraction, scale = clock.span(7), 1_000_000 if clock[6] == ":" else _FRACTION[len(clock[7] or "")]
        date_text = text[: clock.start()] + text[clock.end() :]
        known = clock[8] is None and not text[fraction[1] : fraction[1] + 1].isdigit()
    elif clock := _COMPACT.match(text):
        spans = [clock.span(group) for group in (3, 4, 5)]
        fraction, scale = clock.span(7), _FRACTION[len(clock[7] or "")]
        date_text, known = clock[1], True
    else:
        return shape
    if not known or any(end - begin != 2 for begin, end in spans):
        return shape
    hour, minute, second = (int(text[begin:end]) for begin, end in spans)
    parts = int(text[slice(*fraction)]) if fraction[1] > fraction[0] else 0
    since_midnight = (hour * 3600 + minute * 60 + second) * _SECOND + parts * scale
    has_no_date = not date_text.strip(_AROUND_DATE).rstrip("T")
    shape.text.view(np.uint8)[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    shape.is_fixed.view(np.uint8)[: len(text)] = 0xFF
    for begin, end in [*spans, fraction] if fraction[0] >= 0 else spans:
        shape.is_fixed.view(np.uint8)[begin:end] = 0
        shape.is_digit.view(np.uint8)[begin:end] = 0x80
    begins = [begin for begin, _ in spans]
    fraction_numbers = max(0, fraction[0]), fraction[1] - fraction[0], scale
    shape.numbers[:10] = len(text), *begins, *fraction_numbers, time - since_midnight, has_no_date, since_midnight
    shape.numbers[10] = _has_year(date_text)
    return shape


def _has_year(date_text: str) -> bool:
    """Whether a parser keeps what it makes of a date that is nothing else."""
    parser = TimeParser()
    parser._resolve(date_text, 0)
    return date_text in parser._days


def _days(year: int, month: int, day: int) -> int:
    """Days since the epoch; a 29th of February that the year lacks is the 1st of March."""
    return date(year, month, 1).toordinal() + day - 1 - _EPOCH_ORDINAL
