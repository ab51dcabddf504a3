"""Work that upstream does for itself, batches and responses in the background: what it used is told when somebody asks.

https://platform.openai.com/docs/api-reference/batch/object and `background` of the Responses API.
"""

from collections.abc import Mapping

from addons.core import bounded_json
from addons.core.metered import Metered, metered

_MOST = 1 << 20
_OVER = ("completed", "incomplete", "expired", "cancelled", "failed")


class Later:
    """Hears an answer that tells of such work."""

    def __init__(self) -> None:
        self._held = bytearray()

    def hear(self, chunk: bytes) -> None:
        """Take a chunk as it came."""
        if len(self._held) <= _MOST:
            self._held += chunk

    def told(self) -> tuple[str, str, Metered, dict[str, str]] | None:
        """Id, model, usage, and what the price depends on besides; None for work that goes on, or is none of these."""
        if len(self._held) > _MOST:
            return None
        try:
            said = bounded_json.loads(bytes(self._held).decode("utf-8"))
        except ValueError:  # compressed, or broken
            return None
        if not isinstance(said, Mapping) or said.get("status") not in _OVER or not isinstance(said.get("id"), str):
            return None
        is_batch = said.get("object") == "batch"
        usage = metered(said.get("usage"))
        if usage is None or not (is_batch or said.get("background") is True):
            return None
        tier, model = "batch" if is_batch else said.get("service_tier"), said.get("model")
        asked = {"service_tier": tier} if isinstance(tier, str) else {}
        return said["id"][:80], model if isinstance(model, str) else "", usage, asked
