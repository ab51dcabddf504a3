"""Trifles: what mitmproxy works out again for every request, the same answer in a fraction of the time.

- An option's value is copied deeply each time it is asked for. What can't be changed need not be.
- Each layer's context begins with a server that is thrown away at once, its random id included.
- Ids: a UUID becomes text by way of a number and back.
- An address becomes text by way of `ipaddress`, twice for each line that mitmdump prints.
- mitmdump asks the system for the terminal's width before each line. Here once a second, so a line may be cut to the
  width of a second ago.
- How long a body is, and whether its connection ends with it, is looked up in the headers some ten times.
"""

import os
import shutil
import time
from functools import lru_cache
from typing import Any

import mitmproxy.flow
from mitmproxy import connection, http
from mitmproxy.addons import dumper
from mitmproxy.net.http import http1
from mitmproxy.optmanager import OptManager, unset
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as layers
from mitmproxy.utils import human

from addons.engine.speed.lookups import values_by_name
from addons.engine.wrapping import replace_all, restore_all, stock_of

_NEVER_CHANGES = (str, bool, int, float, type(None))
_VARIANTS = "89ab"  # RFC 9562, 4.1
_NO_BODY = (204, 304)


def install() -> None:
    """Make the changes of this room."""
    replace_all(CHANGES)


def uninstall() -> None:
    """Take them back."""
    restore_all(CHANGES)


def _option(options: Any, name: str) -> Any:
    """mitmproxy 12.2.3 copies an option's value deeply each time it is asked for, twice where it is the default; so
    layers, which ask all the time, pay for copies of what can't be changed. Here that is not copied. Remove when
    _Option.current copies lists and the like only.
    """
    option = options._options.get(name)
    if option is None:
        raise AttributeError(f"No such option: {name}")
    value = option._default if option.value is unset else option.value
    return value if type(value) in _NEVER_CHANGES else option.current()


def _fork(context: Context) -> Context:
    """mitmproxy 12.2.3 makes a Server for each fork of a context, with an id from the system's random numbers, and
    throws it away; so each layer costs one. Remove when Context.fork makes none.
    """
    fork = Context.__new__(Context)
    fork.client, fork.options, fork.server = context.client, context.options, context.server
    fork.layers = context.layers.copy()
    return fork


def new_id() -> str:
    """A random UUID, version 4, as text."""
    digits = os.urandom(16).hex()
    variant = _VARIANTS[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class _Ids:
    """`uuid`, as far as ids of flows and connections need it.

    mitmproxy 12.2.3 makes a UUID object for each id, and text of it by way of a number; so each flow and each
    connection pays for that. Remove when ids are made without UUID objects.
    """

    uuid4 = staticmethod(new_id)


class _Terminal:
    """`shutil`, as far as mitmdump's lines need it.

    mitmproxy 12.2.3 asks the system for the terminal's width before each line; so each exchange costs a system call.
    Here it is asked once a second. Remove when Dumper keeps the width.
    """

    def __init__(self) -> None:
        self._until = 0.0
        self._size = os.terminal_size((80, 24))

    def get_terminal_size(self) -> os.terminal_size:
        """As `shutil.get_terminal_size`, of at most a second ago."""
        now = time.monotonic()
        if now >= self._until:
            self._size, self._until = shutil.get_terminal_size(), now + 1.0
        return self._size


def _body_size(request: http.Request, response: http.Response | None = None) -> int | None:
    """mitmproxy 12.2.3 finds out some ten times in an exchange how long its bodies are, and parses the fields each
    time; so here the usual, one length in digits or none, is read from the index of the headers. All else is stock's.
    Remove when expected_http_body_size is asked once for a message.
    """
    if response is None:
        index = values_by_name(request.data.headers)
    else:
        status = response.data.status_code
        if status < 200 or status in _NO_BODY or request.data.method.upper() in (b"HEAD", b"CONNECT"):
            return _stock_body_size(request, response)
        index = values_by_name(response.data.headers)
    if b"transfer-encoding" in index:
        return _stock_body_size(request, response)
    lengths = index.get(b"content-length", ())
    if not lengths:
        return 0 if response is None else -1
    length = lengths[0]
    if len(lengths) == 1 and length.isdigit() and len(length) < 19 and (length == b"0" or not length.startswith(b"0")):
        return int(length)
    return _stock_body_size(request, response)


def _stock_body_size(request: http.Request, response: http.Response | None) -> int | None:
    size: int | None = stock_of(http1.expected_http_body_size)(request, response)
    return size


def _connection_close(http_version: Any, headers: http.Headers) -> Any:
    """mitmproxy 12.2.3 splits the tokens of `connection` for each message, of what mostly is not there; so here the
    index of the headers is asked first. Remove when Headers answers `in` from an index.
    """
    if b"connection" in values_by_name(headers):
        return stock_of(http1.connection_close)(http_version, headers)
    return http_version not in ("HTTP/1.1", b"HTTP/1.1", "HTTP/2.0", b"HTTP/2.0")


def _begin_headers(self: Any, fields: Any = (), **headers: Any) -> None:
    """mitmproxy 12.2.3 calls `update` with an empty mapping for headers without keywords, as all that are read have; so
    each message pays for it. As stock, without that. Remove when Headers.__init__ calls it for keywords only.
    """
    if headers:
        stock_of(http.Headers.__init__)(self, fields, **headers)
        return
    self.fields = fields = tuple([tuple(each) for each in fields])
    for key, value in fields:
        if not isinstance(key, bytes) or not isinstance(value, bytes):
            raise TypeError("Header fields must be bytes.")


def _header_block(headers: http.Headers) -> bytes:
    """mitmproxy 12.2.3 joins the fields by a generator of joins; so each head costs a call per field. The same bytes by
    one list. Remove when Headers.__bytes__ has no generator in a join.
    """
    try:
        return b"".join([b"%b: %b\r\n" % field for field in headers.fields])
    except TypeError:  # no tuples of two
        block: bytes = stock_of(http.Headers.__bytes__)(headers)
        return block


def _address(address: Any) -> str:
    """mitmproxy 12.2.3 keeps 128 addresses as text, and asks `ipaddress` for the rest; so with more clients than that
    each line of mitmdump costs two of its objects. Here 1024 are kept. Remove when format_address keeps more.
    """
    try:
        text: str = _known_address(address)
    except TypeError:  # a list, as flow files have it
        text = stock_of(human.format_address)(address)
    return text


_known_address = lru_cache(1024)(stock_of(human.format_address))
_terminal = _Terminal()
_ids = _Ids()
CHANGES: tuple[tuple[Any, str, Any], ...] = (
    (OptManager, "__getattr__", _option),
    (Context, "fork", _fork),
    (mitmproxy.flow, "uuid", _ids),
    (connection, "uuid", _ids),
    (human, "format_address", _address),
    (dumper, "shutil", _terminal),
    (http1, "expected_http_body_size", _body_size),
    (layers, "expected_http_body_size", _body_size),
    (http1, "connection_close", _connection_close),
    (http.Headers, "__init__", _begin_headers),
    (http.Headers, "__bytes__", _header_block),
)
