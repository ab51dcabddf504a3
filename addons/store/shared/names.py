"""Names of relay's keys in Redis. What one call touches has one hash tag, `{...}`, so that it lies on one node of a
cluster: money by a number of partitions, sessions by their owner."""

import zlib

PARTITIONS = 16
"""Of the accounts and the ledger. Never change it: what is spent is looked for by it."""


class Names:
    """The names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.secret = f"{{{prefix}}}:secret"
        self.keys = f"{{{prefix}}}:keys"
        self.sessions = f"{prefix}:sessions"
        """All sessions by their last use, to bound how many there are."""
        self.partitions = tuple(Partition(f"{{{prefix}:{number:02}}}") for number in range(PARTITIONS))

    def partition(self, account: str) -> "Partition":
        """Where an account lies, and the rows of its requests."""
        return self.partitions[zlib.crc32(account.encode()) % PARTITIONS]

    def session(self, key: str) -> "SessionNames":
        """Of a session, by what `Store.key` calls it."""
        return SessionNames(self.prefix, key)

    def alive(self, process: str) -> str:
        """What is there as long as a process says that it is."""
        return f"{self.prefix}:alive:{process}"

    def wake(self, process: str) -> str:
        """The channel on which a process hears that its turn has come."""
        return f"{self.prefix}:wake:{process}"


class Partition:
    """A part of all accounts, with the rows of their requests."""

    def __init__(self, tag: str) -> None:
        self.holders = f"{tag}:holders"
        self.stream = f"{tag}:ledger"
        self.epoch = f"{tag}:epoch"
        self.holds_of = f"{tag}:holds:"
        self.done_of = f"{tag}:done:"
        self._restored_of = f"{tag}:restored:"
        self._account_of = f"{tag}:account:"
        self._rate_of = f"{tag}:rate:"

    def account(self, key: str) -> str:
        """What a key has spent and holds."""
        return self._account_of + key

    def rate(self, key: str) -> str:
        """What a key has asked for in the last minute."""
        return self._rate_of + key

    def restored(self, key: str, day: str) -> str:
        """The mark of what was added of a day that Redis had lost."""
        return f"{self._restored_of}{day}:{key}"

    def holds(self, holder: str) -> str:
        """What one process holds."""
        return self.holds_of + holder

    def done(self, request: str) -> str:
        """The mark of a request that is settled."""
        return self.done_of + request


OWNER = 40
"""Characters of the owner's name at the end of a session's."""


class SessionNames:
    """A session and what belongs to it."""

    def __init__(self, prefix: str, key: str) -> None:
        name, owner = key[:-OWNER], key[-OWNER:]
        tag = f"{{{prefix}:{owner}}}"
        self.session = f"{tag}:session:{name}"
        self.lease = f"{tag}:lease:{name}"
        self.queue = f"{tag}:queue:{name}"
        self.seen = f"{tag}:seen:{name}"
        self.fences = f"{tag}:fences:{name}"
        self.owned = f"{tag}:sessions"
