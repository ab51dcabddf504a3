"""Work that upstream does for itself, batches and responses in the background: what it used is told when somebody asks.

https://platform.openai.com/docs/api-reference/batch/object and `background` of the Responses API.
"""

from addons.core.answer_usage import AnswerUsage
from addons.core.json_member import MemberCatcher
from addons.core.metered import Metered, metered

_OVER = ("completed", "incomplete", "expired", "cancelled", "failed")
_WANTED = tuple((name,) for name in ("id", "object", "status", "background", "model", "service_tier", "usage"))


class Later:
    """Hears an answer that tells of such work. It may be long: only what is wanted of it is kept."""

    def __init__(self) -> None:
        self._catcher = MemberCatcher(_WANTED)
        self._stream = AnswerUsage()
        self._is_object: bool | None = None

    def hear(self, chunk: bytes) -> None:
        """Take a chunk as it came."""
        if self._is_object is None:
            chunk = chunk.lstrip(b" \t\r\n")
            if not chunk:
                return
            self._is_object = chunk.startswith(b"{")
        if self._is_object:
            self._catcher.feed(chunk)
        else:  # an event stream, of a response that is followed to its end (`stream=true`)
            self._stream.feed(chunk)

    def told(self) -> tuple[str, str, Metered, dict[str, str]] | None:
        """Id, model, usage, and what the price depends on besides; None for work that goes on, or is none of these."""
        if self._is_object is False:
            heard = self._stream.told()
            if heard.background is None or heard.usage is None:
                return None
            return heard.background, heard.model or "", heard.usage, dict(heard.asked)
        said = self._catcher.members
        name, model, is_batch = said.get("id"), said.get("model"), said.get("object") == "batch"
        usage = metered(said.get("usage"))
        if usage is None or said.get("status") not in _OVER or not isinstance(name, str):
            return None
        if not (is_batch or said.get("background") is True):
            return None
        tier = "batch" if is_batch else said.get("service_tier")
        asked = {"service_tier": tier} if isinstance(tier, str) else {}
        return name[:80], model if isinstance(model, str) else "", usage, asked
