"""Keyring: whose key a key is. Keys of relay.yaml, and those that `./run.sh keys` has handed out.

What that command changes takes effect with the next look at its file: within a second, and at once for a key that
nobody has shown yet.
"""

import logging
import time
from collections.abc import Mapping

from addons import errors
from addons.config.settings import ListedKey, Settings
from addons.core.rates import nano
from addons.core.relay_keys import RelayKey
from addons.store import StoreError, keys_file
from addons.store.keys_file import KeySource

logger = logging.getLogger(__name__)

_LOOK = 1.0


class Keyring:
    """The keys under one state of the settings. `secret` is the store's, which keys their hashes."""

    def __init__(self, settings: Settings, secret: bytes, source: KeySource) -> None:
        """Raises StoreError where the keys can't be read."""
        self._settings = settings
        self._secret = secret
        self._source = source
        self._listed = {keys_file.hash_of(secret, listed.key): of_settings(listed) for listed in settings.keys.list}
        self._state = source.state()
        self._stored: Mapping[str, RelayKey] = self._read()
        self._look_at = 0.0
        self._strange: set[str] = set()
        """Hashes that nobody's key has had at the last look."""

    def _read(self) -> dict[str, RelayKey]:
        return {} if self._state is None else {each.hash: each.key() for each in self._source.read()}

    def _look(self) -> None:
        """Read the file anew if it has changed; what was known stays in force where it can't be read."""
        self._look_at = time.monotonic() + _LOOK
        self._strange.clear()
        state = self._source.state()
        if state == self._state:
            return
        before, self._state = self._state, state
        try:
            self._stored = self._read()
        except StoreError as error:
            self._state = before
            logger.error(f"{error}; the keys known so far stay in force")

    @property
    def any(self) -> bool:
        """Whether a key was ever handed out."""
        return bool(self._listed or self._stored)

    @property
    def open(self) -> bool:
        """Whether callers with keys of their own are served."""
        said = self._settings.keys.open
        return said if said is not None else not self.any

    def find(self, text: str) -> RelayKey | None:
        """The relay key that a text is, in force or not; None for a key of the caller's own."""
        if time.monotonic() >= self._look_at:
            self._look()
        name = keys_file.hash_of(self._secret, text)
        found = self._listed.get(name) or self._stored.get(name)
        if found is None and name not in self._strange:
            self._look()
            found = self._stored.get(name)
            if found is None:
                self._strange.add(name)
        return found

    def authenticate(self, text: str | None, now: float) -> RelayKey | None:
        """The relay key that a caller shows, None for a key of its own. `now` is seconds since the epoch.

        Raises Unauthorized for one that does not work, and for everybody else's where relay serves its own keys alone.
        """
        return self.check(self.find(text) if text else None, text, now)

    def check(self, key: RelayKey | None, text: str | None, now: float) -> RelayKey | None:
        """The same where `find` has told already which key `text` is."""
        if key is not None:
            if key.revoked:
                raise errors.Unauthorized("此密钥已被吊销，请更换密钥。", "This key was revoked: use another one.")
            if key.expired(now):
                raise errors.Unauthorized(
                    f"此密钥已于 {key.expires} 过期，请更换密钥。",
                    f"This key has expired ({key.expires} was its last day): use another one.",
                )
            return key
        if not self.open:
            if not text:
                raise errors.Unauthorized(
                    "缺少密钥：请在 Authorization 请求头中提供此中转服务发放的密钥。",
                    "A key is missing: send one that this relay has handed out, as Authorization: Bearer rk-...",
                )
            raise errors.Unauthorized(
                "密钥无效：此中转服务只接受它自己发放的密钥，请检查密钥。",
                "This key is not known here: this relay serves only keys that it has handed out. Check yours.",
            )
        return None

    def caller(self, text: str) -> str:
        """What the use of a caller's own key is counted under."""
        return keys_file.caller_of(self._secret, text)


def of_settings(listed: ListedKey) -> RelayKey:
    """A key of relay.yaml."""
    budget = listed.budget
    return RelayKey(
        # A name of relay.yaml can't be taken for an id of the file's.
        f"listed:{listed.name}",
        listed.name,
        listed.upstream,
        listed.models,
        listed.paths,
        None if budget is None else nano(budget.amount),
        "total" if budget is None else budget.per,
        listed.rate.requests,
        listed.rate.tokens,
        listed.parallel,
        listed.expires,
    )
