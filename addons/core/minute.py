"""A count of the last 60 seconds, second by second."""

from collections import deque

MINUTE = 60
"""Seconds."""


class Minute:
    """What was counted in the last 60 seconds. It keeps an entry for each second in which something was."""

    def __init__(self) -> None:
        self.seconds: deque[tuple[int, int]] = deque()
        self.sum = 0

    def at(self, now: float) -> int:
        """The count of the last minute."""
        while self.seconds and self.seconds[0][0] <= int(now) - MINUTE:
            self.sum -= self.seconds.popleft()[1]
        return self.sum

    def add(self, now: float, count: int) -> None:
        """Count."""
        second = int(now)
        self.at(now)  # so that what is older takes no room
        if self.seconds and self.seconds[-1][0] >= second:
            second, before = self.seconds.pop()
            self.seconds.append((second, before + count))
        else:
            self.seconds.append((second, count))
        self.sum += count

    def retry_after(self, now: float, limit: int) -> int:
        """Seconds until the count is below `limit`, if nothing more comes."""
        left = self.at(now)
        for second, count in self.seconds:
            left -= count
            if left < limit:
                return max(1, second + MINUTE - int(now))
        return MINUTE
