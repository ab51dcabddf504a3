"""When has the event stream of a model ended? Not when its socket does: upstreams leave connections open behind
`[DONE]`, close them without the last chunk, or fall silent after an error.

1. `[DONE]`, `message_stop`, `response.completed` (`.failed`, `.incomplete`) and an error end it: nothing behind counts.
2. A finish reason says that the answer is whole, but not that nothing follows: the usage may.
3. A stream in which neither has come broke off, however properly its body ends.
"""

from addons.core import upstream_error

DONE = "[DONE]"
_LAST = ("message_stop", "response.completed", "response.incomplete")
_FAILED = ("response.failed", "error")
_MOST_CHOICES = 128  # told apart; OpenAI allows as many


class StreamEnd:
    """Hears the events of one stream in their order."""

    def __init__(self) -> None:
        self.over = False
        """An end mark or an error has come: nothing behind it belongs to the answer."""
        self.failed = False
        """It ended with an error."""
        self.counted = False
        """Usage has come behind a finish reason, or with it."""
        self._finished: dict[int, bool] = {}

    @property
    def finished(self) -> bool:
        """Every choice has its finish reason."""
        return bool(self._finished) and all(self._finished.values())

    @property
    def whole(self) -> bool:
        """The answer is there to its end: what breaks now breaks nothing."""
        return (self.over or self.finished) and not self.failed

    def hear(self, data: str, value: object, event: str = "message") -> None:
        """Take an event: its data, that as JSON (None where it is none), and its name. Never raises."""
        if self.over:
            return
        if value is None:
            self.failed = event in _FAILED  # in plain words
            self.over = self.failed or (len(data) < 32 and data.strip() == DONE)
            return
        if not isinstance(value, dict):
            return
        names = (event, value.get("type"))
        if any(name in _FAILED for name in names) or upstream_error.told(value, strict=True) is not None:
            self.over = self.failed = True
        elif any(name in _LAST for name in names):
            self.over = True
        else:
            self._choices(value.get("choices"))
            self.counted = self.counted or (self.finished and isinstance(value.get("usage"), dict))

    def _choices(self, choices: object) -> None:
        for position, choice in enumerate(choices[:_MOST_CHOICES] if isinstance(choices, list) else ()):
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            index = index if isinstance(index, int) else position
            if index in self._finished or len(self._finished) < _MOST_CHOICES:
                self._finished[index] = self._finished.get(index, False) or bool(choice.get("finish_reason"))
