"""Ids of accounts, devices and agents' sessions: no keys, but they tell whose a request is. Bytes in, spans out.

They are known in three ways:

1. By the name of a field or a header: `organization_id`, `chatgpt-account-id`, `device_id`, `user_id`.
2. By their looks, anywhere: `org-...`, `proj_...` and `user-...`, as OpenAI's errors quote them.
3. By what stands in a value that joins several, such as the `metadata.user_id` that Claude Code sends: each by itself,
   so that one device stays one through all its sessions.

Left readable is what conversations are found by: `sessionId` of `/chat`, ids of responses, of tool calls and of
threads, and `prompt_cache_key`. Since some agents use one id for that and for their session, a session's id is hidden
where it stands and not looked for elsewhere.
"""

import re
from collections.abc import Iterator

from addons.core.secrets import TooManySecrets
from addons.core.slices import Sliced

_NAMES = frozenset(
    re.findall(
        r"\S+",
        "organization org organizationid orgid organizationuuid orguuid openaiorganization openaiproject openaiorg "
        "anthropicorganizationid projectid accountid accountuuid chatgptaccountid chatgptuserid chatgptaccountuserid "
        "installationid deviceid machineid xcodexinstallationid userid useruuid workspaceid",
    )
)
"""Without `-` and `_`."""
_SESSIONS = frozenset(("session_id", "session-id", "session_uuid"))
"""Written so alone: `sessionId` is what apps call a conversation of `/chat`."""
_SESSION_HEADERS = frozenset(("session_id", "session-id", "x-session-affinity"))
_SESSION_ENDS = ("-session-id", "_session_id")
_HEADERS = frozenset(("openai-organization", "openai-project", "x-goog-user-project"))
_HEADER_ENDS = tuple(
    f"-{each}-id" for each in ("organization", "org", "account", "installation", "device", "machine", "user", "project")
)
STEM = re.compile(
    rb"device|install|organi|machine|workspace|(?:account|org|user|project|session)[_-]?u?u?id", re.IGNORECASE
)
"""Some of this stands in every such name."""
_LONGEST_NAME = 40
_MARKS = re.compile(r"[-_]")

_UUID = rb"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}"
_JOINED = re.compile(rb"(?<![0-9A-Za-z])(?:" + _UUID + rb"|[0-9A-Fa-f]{16,256}+)(?![0-9A-Za-z])")
_WHOLE = re.compile(rb"[\x21-\x7e]{16,512}+")
_LOOKS = re.compile(rb"(?:(?<![0-9A-Za-z_-])|(?<=\\[nrt]))(?:org-|proj_|user-)[0-9A-Za-z]{16,64}+(?![0-9A-Za-z_-])")
_SIGNS = (b"org-", b"proj_", b"user-")
_BEFORE = 24
"""Bytes before an id in which it may be called a session's."""
MOST_ECHOED = 16
"""Ids of one body that are looked for elsewhere."""
_SLICE = 1 << 18
_OVERLAP = 128
_PER_SLICE = 2000

Part = tuple[int, int, bool]
"""Where an id begins and ends, and whether it is looked for elsewhere, too."""


def names_one(name: str) -> bool:
    """Whether a field of this name holds the id of an account, a device or an agent's session.

    >>> names_one("chatgpt_account_id"), names_one("session_id"), names_one("sessionId"), names_one("prompt_cache_key")
    (True, True, False, False)
    """
    if len(name) > _LONGEST_NAME:
        return False
    low = name.lower()
    return low in _SESSIONS or _MARKS.sub("", low) in _NAMES


def names_header(name: str) -> bool:
    """The same of a header, in lower case."""
    return name in _HEADERS or name.endswith(_HEADER_ENDS) or is_session_header(name) or names_one(name)


def is_session_header(name: str) -> bool:
    """Whether a header holds the id of an agent's session."""
    return name in _SESSION_HEADERS or name.endswith(_SESSION_ENDS)


def parts(data: bytes, start: int, end: int) -> Iterator[Part]:
    """The ids in a value: each of those that are joined in it, or all of it where it could be one. JSON is left to who
    reads it by its names."""
    value = data[start:end]
    if value[:1] in (b"{", b"["):
        return
    found = [each.span() for each in _JOINED.finditer(_joined(value))]
    if len(found) < 2:
        if _could_be(value):
            yield start, end, not _is_session(data, start)
        return
    for first, last in found:
        before = data[max(start, start + first - _BEFORE) : start + first]
        yield start + first, start + last, b"session" not in before


def _joined(value: bytes) -> bytes:
    """`user_<id>_account_<id>`: an underscore divides as well as a blank; places stay."""
    return value.replace(b"_", b" ")


def _could_be(value: bytes) -> bool:
    return _WHOLE.fullmatch(value) is not None and any(0x30 <= each <= 0x39 for each in value)


def _is_session(data: bytes, start: int) -> bool:
    """Whether the field whose value begins here is called a session's."""
    return b"session" in data[max(0, start - _BEFORE) : start]


def finding(data: bytes, most: int) -> Sliced[list[Part]]:
    """The ids of a text that are known by their looks. Raises TooManySecrets over `most`."""
    found: list[Part] = []
    for start in range(0, len(data), _SLICE):
        if start:
            yield
        end = start + _SLICE
        if not any(data.find(sign, start, end + _OVERLAP) >= 0 for sign in _SIGNS):
            continue
        for each in _LOOKS.finditer(data, start, end + _OVERLAP):
            if each.start() >= end:
                break
            found.append((*each.span(), len(found) < MOST_ECHOED))
            if len(found) > most:
                raise TooManySecrets
            if len(found) % _PER_SLICE == 0:
                yield
    return found
