"""What files say, read again when they change, so that nothing need be restarted for a renewed certificate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from offramp.errors import InvalidInput

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Reread(Generic[T]):
    """The value of `read` on these files as they are now; where they make no sense, the last one that did.

    Raises what `read` raises, an InvalidInput, when it is built; later that is logged, once for each change.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        self._files, self._read = files, read
        self._stamp = self._stamps()
        self._value = read()

    @property
    def value(self) -> T:
        """What the files say."""
        stamp = self._stamps()
        if stamp != self._stamp:
            self._stamp = stamp  # before reading: a change meanwhile is read the next time
            try:
                self._value = self._read()
                logger.info("read anew: %s", ", ".join(map(str, self._files)))
            except InvalidInput as exc:
                logger.error("going on with what was read before: %s", exc)
        return self._value

    def _stamps(self) -> list[tuple[int, int, int]]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size
