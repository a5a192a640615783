"""What a person sees while something takes long: on a terminal a line that changes, in a log few.

Imports nothing heavy, so that a study need not load Keras for it.
"""

import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

_BREAKING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # a line, or a terminal's state


def many(count: int, noun: str) -> str:
    """Return the count with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class Line:
    """A line that the next one replaces on a terminal, and that is seldom written into a log.

    Args:
        stream: Where to write; stdout if None.
    """

    SECONDS = 0.5  # between two updates on a terminal
    SECONDS_LOG = 60  # the same where lines cannot be overwritten

    def __init__(self, stream=None):
        self.stream = stream or sys.stdout
        self.terminal = self.stream.isatty()
        self.begin()

    def begin(self) -> None:
        """Count the time to the next update from now."""
        self.shown = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for an update; if so, the next one is that much later."""
        now = time.monotonic()
        if now - self.shown <= (self.SECONDS if self.terminal else self.SECONDS_LOG):
            return False
        self.shown = now
        return True

    def write(self, text: str, passing: bool = False) -> None:
        """Write a line in the place of a passing one.

        Args:
            text: The line; empty text only clears a terminal's.
            passing: Whether the next one is to take its place on a terminal.
        """
        if self.terminal:
            # Back to the first column, and clear what the longer line before may have left.
            text = f"\r{text}\x1b[K"
        end = "" if passing and self.terminal else "\n"
        print(text, end=end, file=self.stream, flush=True)


def counted(items: Iterable, total: int, what: str, line: Line | None = None) -> Iterator:
    """Yield items, and show how many there were, their rate and the time left.

    Args:
        items: As many as `total`.
        total: Their number.
        what: What is done, as "checking images".
        line: Where to show it; on stdout if None.
    """
    line, began, shown = line or Line(), time.monotonic(), False
    for done, item in enumerate(items, 1):
        if line.due():
            shown, rate = True, done / (time.monotonic() - began)
            left = clock((total - done) / rate)
            line.write(f"{what}  {done:,}/{total:,}  {rate:.0f}/s  {left} left", passing=True)
        yield item
    if shown and line.terminal:
        line.write("", passing=True)


def clock(seconds: float) -> str:
    """Return 1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def is_utf8(text: str) -> bool:
    """Whether a file can hold a text: a name may have bytes that are not UTF-8."""
    return text.encode(errors="replace").decode() == text


def printable(text: str) -> str:
    """Return text as one line that a file can hold.

    Line breaks and other control characters of a name, and bytes that are not UTF-8, are escaped.
    """
    text = _BREAKING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
    return text.encode(errors="backslashreplace").decode()


def few(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """Return texts as one; of many the first, and how many more there are."""
    text = between.join(texts[:most])
    return f"{text} and {len(texts) - most:,} more" if len(texts) > most else text
