"""When has the event stream of a model ended? Not when its socket does: upstreams leave connections open behind
`[DONE]`, close them without the last chunk, or fall silent after an error.

1. `[DONE]`, `message_stop`, `response.completed` (`.failed`, `.incomplete`) and an error end it: nothing behind counts.
2. A finish reason says that the answer is whole, but not that nothing follows: the usage may.
3. A stream in which neither has come broke off, however properly its body ends.
"""

from collections.abc import Collection

from addons.core import upstream_error

DONE = "[DONE]"
LAST = ("message_stop", "response.completed", "response.incomplete")
FAILED = ("response.failed", "error")
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
    def choices(self) -> Collection[int]:
        """The choices that have been told of so far."""
        return self._finished.keys()

    @property
    def nothing_follows(self) -> bool:
        """Whoever has heard so much may leave: nothing more comes that belongs to the answer, or nothing but its end
        mark."""
        return self.over or (self.finished and self.counted)

    @property
    def whole(self) -> bool:
        """The answer is there to its end: what breaks now breaks nothing."""
        return (self.over or self.finished) and not self.failed

    def hear(self, data: str, value: object, event: str = "message") -> None:
        """Take an event: its data, that as JSON (None where it is none), and its name. Never raises."""
        if self.over:
            return
        if value is None:
            self.failed = event in FAILED  # in plain words
            self.over = self.failed or (len(data) < 32 and data.strip() == DONE)
            return
        if not isinstance(value, dict):
            return
        names = (event, value.get("type"))
        if any(name in FAILED for name in names) or upstream_error.find_error(value, strict=True) is not None:
            self.over = self.failed = True
        elif any(name in LAST for name in names):
            self.over = True
        else:
            choices = value.get("choices", value.get("candidates"))  # Gemini's
            self._choices(choices)
            # Moonshot's usage stands in the choice.
            holders = [value, *choices[:_MOST_CHOICES]] if isinstance(choices, list) else [value]
            counted = any(_tells_usage(each) for each in holders)
            self.counted = self.counted or (self.finished and counted)

    def _choices(self, choices: object) -> None:
        for position, choice in enumerate(choices[:_MOST_CHOICES] if isinstance(choices, list) else ()):
            if not isinstance(choice, dict):
                continue
            index = choice.get("index")
            index = index if isinstance(index, int) else position
            for earlier in range(min(index, _MOST_CHOICES) if index not in self._finished else 0):
                self._finished.setdefault(earlier, False)  # they count from 0: these have yet to come
            if index in self._finished or len(self._finished) < _MOST_CHOICES:
                self._finished[index] = self._finished.get(index, False) or _has_reason(choice)


def _has_reason(choice: dict[str, object]) -> bool:
    return bool(choice.get("finish_reason") or choice.get("finishReason"))


def _tells_usage(value: object) -> bool:
    return isinstance(value, dict) and any(isinstance(value.get(name), dict) for name in ("usage", "usageMetadata"))
