"""What is worked out once, or in fewer steps, comes out as mitmproxy has it."""

import copy
import io
import os
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Optional

import mitmproxy.flow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import connection, http, optmanager
from mitmproxy.addons import dumper
from mitmproxy.net.http import http1
from mitmproxy.options import Options
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.test import taddons, tflow
from mitmproxy.utils import human

from addons.engine.speed import trifles
from tests.support.side_by_side import engine

Outcome = tuple[Any, ...]


def _outcome(function: Callable[[], Any]) -> Outcome:
    """What comes of a call, be it an exception."""
    try:
        result = function()
    except Exception as error:
        return type(error), str(error)
    return type(result), result


def _same(function: Callable[[], Any]) -> Outcome:
    """What comes of a call, stock's and the changed one agreeing about it."""
    with engine(fast=False):
        stock = _outcome(function)
    with engine(fast=True):
        assert _outcome(function) == stock
    return stock


# -- options

TYPES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "bool": (bool, st.booleans()),
    "int": (int, st.integers()),
    "str": (str, st.text(max_size=5)),
    "optional str": (Optional[str], st.none() | st.text(max_size=5)),  # noqa: UP045 - as mitmproxy writes them
    "optional int": (Optional[int], st.none() | st.integers()),  # noqa: UP045
    "sequence of str": (Sequence[str], st.lists(st.text(max_size=3), max_size=3)),
    "sequence of int": (Sequence[int], st.lists(st.integers(), max_size=3) | st.tuples(st.integers())),
    "any": (Any, st.none() | st.dictionaries(st.text(max_size=2), st.lists(st.integers()), max_size=2)),
}


def _option_of(kind: Any, default: Any) -> optmanager.OptManager:
    manager = optmanager.OptManager()
    manager.add_option("it", kind, default, "help")
    return manager


@pytest.mark.parametrize(("kind", "values"), TYPES.values(), ids=TYPES.keys())
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_option_of_any_type(kind: Any, values: st.SearchStrategy[Any], data: st.DataObject) -> None:
    default, value = data.draw(values), data.draw(values)
    options = _option_of(kind, default)
    assert _same(lambda: options.it) == (type(default), default)
    options.update(it=value)
    assert _same(lambda: options.it) == (type(value), value)
    options.reset()
    assert _same(lambda: options.it) == (type(default), default)


@pytest.mark.parametrize("value", [[], ["a"], ["a", "b"], ("a",), {"a": [1]}])
@pytest.mark.parametrize("is_set", [True, False])
def test_what_can_be_changed_is_a_copy(value: Any, is_set: bool) -> None:
    options = _option_of(Any, None if is_set else value)
    if is_set:
        options.it = value
    with engine(fast=True):
        assert options.it == value
        if not isinstance(value, tuple):
            assert options.it is not options.it
            options.it.clear()
        elif value:
            assert options.it == value
        assert options.it == value


def test_a_choice_and_a_value_of_a_type_of_its_own() -> None:
    class Text(str):
        """Not to be handed out as it is: it may have been given attributes."""

    options = _option_of(str, "a")
    options._options["it"].value = text = Text("b")
    with engine(fast=True):
        assert options.it == "b"
        assert options.it is not text


@pytest.mark.parametrize("name", ["nothing", "_nothing", "", "__deepcopy__x"])
def test_an_option_that_is_none(name: str) -> None:
    options = Options()
    assert _same(lambda: getattr(options, name)) == (AttributeError, f"No such option: {name}")
    assert _same(lambda: getattr(options, name, "other")) == (str, "other")


def test_all_options_of_mitmproxy() -> None:
    with taddons.context(dumper.Dumper(io.StringIO())) as context:
        options = context.options
        for name in options.keys():  # noqa: SIM118 - it is no mapping
            _same(partial(getattr, options, name))
        assert _same(lambda: copy.deepcopy(options).items())[1]
        options.update(showhost=True, mode=["reverse:http://a"], confdir="x")
        for name in ("showhost", "mode", "confdir"):
            assert _same(partial(getattr, options, name))[1] in (True, ["reverse:http://a"], "x")


# -- contexts


def test_a_fork_of_a_context() -> None:
    context = Context(tflow.tclient_conn(), Options())
    context.server = connection.Server(address=("a", 1))
    context.layers = [object()]  # type: ignore[list-item]
    for fast in (False, True):
        with engine(fast):
            fork = context.fork()
        assert type(fork) is Context
        assert vars(fork) == vars(context)
        assert fork.server is context.server
        assert fork.layers is not context.layers
        fork.layers.append(fork)  # type: ignore[arg-type]
        fork.server = connection.Server(address=("b", 1))
        assert len(context.layers) == 1
        assert context.server.address == ("a", 1)
    assert set(vars(context)) == set(vars(Context(context.client, context.options)))


# -- ids


def test_ids_are_random_uuids() -> None:
    ids = [trifles.new_id() for _ in range(2000)]
    assert len(set(ids)) == 2000
    for text in ids:
        parsed = uuid.UUID(text)
        assert str(parsed) == text
        assert parsed.version == 4
        assert parsed.variant == uuid.RFC_4122
    # Each digit that is not fixed takes all its values.
    digits = [{text[place] for text in ids} for place in range(36)]
    assert [len(each) for each in digits] == [1 if place in (8, 13, 14, 18, 23) else 16 for place in range(19)] + [
        4 if place == 19 else 1 if place == 23 else 16 for place in range(19, 36)
    ]


@given(st.binary(min_size=16, max_size=16))
def test_an_id_has_the_bits_that_it_is_given(random: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", lambda _size: random)
        assert trifles.new_id() == str(uuid.UUID(bytes=random, version=4))


def test_flows_and_connections_have_such_ids() -> None:
    with engine(fast=True):
        flow = tflow.tflow()
        made = [
            flow.copy().id,
            connection.Server(address=None).id,
            mitmproxy.flow.Flow(flow.client_conn, flow.server_conn).id,
        ]
    assert all(uuid.UUID(each).version == 4 and type(each) is str for each in made)
    assert len(set(made)) == 3


# -- addresses

_HOSTS = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.ip_addresses(v=4).map(lambda host: f"::ffff:{host}")
    | st.sampled_from(["0.0.0.0", "::", "::0", "::1", "::ffff:0.0.0.0", "fe80::1%eth0", "fe80::1%0", "localhost", ""])
    | st.sampled_from(["1.2.3", "01.2.3.4", "[::1]", "a.example", "bücher.example", "1.2.3.4 "])
    | st.text(max_size=5)
    | st.integers(0, 2**40)
    | st.none()
)
_ADDRESSES = (
    st.tuples(_HOSTS, st.integers(0, 65535))
    | st.tuples(_HOSTS, st.integers(0, 65535), st.just(0), st.just(0))
    | st.tuples(_HOSTS, st.none() | st.text(max_size=3))
    | st.tuples(_HOSTS)
    | st.just(())
    | st.lists(_HOSTS, max_size=3)
    | st.none()
    | st.integers()
)


@settings(max_examples=200, deadline=None)
@given(_ADDRESSES)
def test_any_address(address: Any) -> None:
    for _ in range(2):
        _same(lambda: human.format_address(address))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("1.2.3.4", 80), "1.2.3.4:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("::ffff:1.2.3.4", 80), "1.2.3.4:80"),
        (("0.0.0.0", 80), "*:80"),
        (("::", 80), "*:80"),
        (("relay.example", 80), "relay.example:80"),
        (None, "<no address>"),
    ],
)
def test_an_address_is_read_as_text(address: Any, text: str) -> None:
    assert _same(lambda: human.format_address(address)) == (str, text)


# -- sizes of bodies

_CASES = st.sampled_from([str.lower, str.upper, str.title])
_NAMES = st.builds(
    lambda name, case: case(name).encode(),
    st.sampled_from(
        ["content-length", "content-length", "transfer-encoding", "connection", "content-lengths", "x", ""]
    ),
    _CASES,
)
_NUMBERS = st.sampled_from([
    *("0", "5", "00", "05", "-1", "+1", "1_0", " 5", "5 ", "5\t", "5\n", "5, 5", "5,6", "1e3", "0x5", "", " ", "five"),
    *("9" * 18, "9" * 19, "9" * 40, "1" + "0" * 18, "٣", "５", "²", "5\x00", "\xa05", "0 ", "-0"),
]) | st.integers(0, 10**25).map(str)  # fmt: skip
_CODINGS = st.sampled_from([
    *("chunked", "Chunked", "gzip", "gzip, chunked", "gzip ,\tchunked", "chunked, gzip", "identity", "compress", "xyz"),
    *("chunked, chunked", "deflate", "deflate,chunked", "", " ", "chunked\x0b", "chunKed", "chunked;a=b"),
])  # fmt: skip
_VALUES = _NUMBERS.map(str.encode) | _CODINGS.map(str.encode) | st.binary(max_size=3)
_FIELDS = st.lists(st.tuples(_NAMES, _VALUES), max_size=4)
_STATUS = st.sampled_from([100, 101, 103, 199, 200, 201, 204, 205, 206, 299, 300, 304, 404, 502, 0, 99, 999])
_METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"head", b"CONNECT", b"connect", b"OPTIONS", b"", b"H\xc3\x89AD"])
_VERSIONS = st.sampled_from([b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/3", b"", b"http/1.1"])


def _request(method: bytes, fields: Any) -> http.Request:
    request = http.Request.make("GET", "http://a/")
    request.data.method = method
    request.headers.fields = tuple(fields)
    return request


def _response(status: int, fields: Any) -> http.Response:
    response = http.Response.make(200)
    response.status_code = status
    response.headers.fields = tuple(fields)
    return response


@pytest.mark.parametrize("module", [http1, http_layers], ids=["in http1", "in the layers"])
@settings(max_examples=300, deadline=None)
@given(_METHODS, _FIELDS, st.none() | st.tuples(_STATUS, _FIELDS))
def test_the_size_of_any_body(module: Any, method: bytes, fields: Any, answer: Any) -> None:
    request, response = _request(method, fields), answer and _response(*answer)
    for _ in range(2):
        _same(lambda: module.expected_http_body_size(request, response))
    if response is None:
        _same(lambda: module.expected_http_body_size(request))


SIZES: dict[str, tuple[list[tuple[bytes, bytes]], Any, Any]] = {
    "none": ([], 0, -1),
    "a length": ([(b"Content-Length", b"12")], 12, 12),
    "no bytes": ([(b"content-length", b"0")], 0, 0),
    "an empty length": ([(b"content-length", b"")], 0, -1),
    "twice the same": ([(b"content-length", b"5"), (b"Content-Length", b"5")], ValueError, ValueError),
    "twice, one empty": ([(b"content-length", b""), (b"Content-Length", b"5")], ValueError, ValueError),
    "a sign": ([(b"content-length", b"+5")], ValueError, ValueError),
    "a leading zero": ([(b"content-length", b"05")], ValueError, ValueError),
    "digits of another script": ([(b"content-length", "٣".encode())], ValueError, ValueError),
    "chunks": ([(b"Transfer-Encoding", b"chunked"), (b"content-length", b"5")], None, None),
    "a long length": ([(b"content-length", b"9" * 30)], int("9" * 30), int("9" * 30)),
}


@pytest.mark.parametrize(("fields", "of_request", "of_response"), SIZES.values(), ids=SIZES.keys())
def test_the_size_of_a_body(fields: Any, of_request: Any, of_response: Any) -> None:
    request, response = _request(b"POST", fields), _response(200, fields)
    for size, messages in ((of_request, (request,)), (of_response, (request, response))):
        kind, value = _same(partial(http1.expected_http_body_size, *messages))
        assert (kind if isinstance(size, type) else value) == size


def test_the_size_is_that_of_the_headers_as_they_are() -> None:
    """Addons change them, and the way in which they are kept changes with it."""
    request = _request(b"POST", [(b"content-length", b"5")])
    kept = [(b"content-length", b"8")]
    changes: list[Callable[[], Any]] = [
        lambda: request.headers.update({"content-length": "6"}),
        lambda: request.headers.__delitem__("Content-Length"),
        lambda: request.headers.insert(0, "Transfer-Encoding", "chunked"),
        lambda: request.headers.clear(),
        lambda: request.headers.add("content-length", "7"),
        lambda: setattr(request.headers, "fields", kept),
        lambda: kept.__setitem__(0, (b"content-length", b"9")),
        lambda: setattr(request, "headers", http.Headers(content_length="10")),
        lambda: request.set_state(_request(b"POST", [(b"content-length", b"11")]).get_state()),
    ]
    sizes = []
    with engine(fast=True):
        for change in changes:
            change()
            sizes.append(http1.expected_http_body_size(request))
    assert sizes == [6, 0, None, 0, 7, 8, 9, 10, 11]


_OPTIONS = st.sampled_from(
    [b"close", b"Close", b"keep-alive", b"Keep-Alive", b"upgrade", b"a, close", b"close,", b"", b"\xff"]
)


@settings(max_examples=200, deadline=None)
@given(
    _VERSIONS | _VERSIONS.map(bytes.decode) | st.none(),
    st.lists(st.tuples(st.sampled_from([b"Connection", b"connection", b"x"]), _OPTIONS), max_size=3),
)
def test_whether_a_connection_ends(version: Any, fields: Any) -> None:
    headers = http.Headers(fields)
    _same(lambda: http1.connection_close(version, headers))


# -- headers

_PARTS = st.binary(max_size=4) | st.text(max_size=3) | st.none() | st.integers() | st.just(bytearray(b"a"))
_MORE = st.dictionaries(
    st.sampled_from(["content_type", "Content_Type", "x", "headers", "fields", "more", "é"]),
    st.binary(max_size=3) | st.text(max_size=3) | st.none() | st.integers(),
    max_size=2,
)
_LISTS = (
    st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), max_size=4)
    | st.lists(st.lists(st.binary(max_size=4), min_size=2, max_size=2), max_size=3)
    | st.lists(st.tuples(_PARTS, _PARTS), max_size=2)
    | st.lists(st.tuples(_PARTS) | st.tuples(_PARTS, _PARTS, _PARTS) | st.binary(max_size=3), max_size=2)
    | st.sampled_from([None, 5, "ab", b"ab", (), {}, {b"ab": 1}, {"ab"}])
)


def _made(*args: Any, **more: Any) -> Any:
    headers = http.Headers(*args, **more)
    return type(headers.fields), [type(each) for each in headers.fields], headers.fields, vars(headers)


@settings(max_examples=300, deadline=None)
@given(_LISTS, _MORE)
def test_any_headers_are_made(fields: Any, more: Any) -> None:
    _same(lambda: _made(fields))
    _same(lambda: _made(**more))
    if "fields" not in more:
        _same(lambda: _made(fields, **more))
    _same(lambda: _made(fields=fields))
    _same(lambda: _made(iter(fields)))


def test_headers_are_made_of_what_they_are_given() -> None:
    assert _same(lambda: http.Headers([(b"A", b"b")], content_type="c").fields)[1] == (
        (b"A", b"b"),
        (b"content-type", b"c"),
    )
    assert _same(http.Headers) == (http.Headers, http.Headers())
    assert _same(lambda: http.Headers([("a", "b")])) == (TypeError, "Header fields must be bytes.")  # type: ignore
    assert _same(lambda: http.Headers(headers="x").fields)[1] == ((b"headers", b"x"),)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=4)), max_size=4) | _LISTS)
def test_any_block_of_headers(fields: Any) -> None:
    headers = http.Headers()
    headers.fields = fields
    _same(lambda: bytes(headers))
    _same(lambda: bytes(http.Headers(fields)))


def test_a_block_of_headers() -> None:
    assert _same(lambda: bytes(http.Headers([(b"A", b"b"), (b"a", b""), (b"", b"c")]))) == (
        bytes,
        b"A: b\r\na: \r\n: c\r\n",
    )
    assert _same(lambda: bytes(http.Headers())) == (bytes, b"")


# -- the terminal


def test_the_terminal_is_asked_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    now = [100.0]

    def size() -> os.terminal_size:
        asked.append(1)
        return os.terminal_size((100 + len(asked), 24))

    monkeypatch.setattr(shutil, "get_terminal_size", size)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    terminal = trifles._Terminal()
    widths = []
    for moment in (100.0, 100.5, 100.99, 101.0, 101.5, 102.5):
        now[0] = moment
        widths.append(terminal.get_terminal_size()[0])
    assert widths == [101, 101, 101, 102, 102, 103]


@pytest.mark.parametrize("columns", ["60", "80", "200"])
@pytest.mark.parametrize("length", [10, 100, 300])
def test_lines_of_mitmdump(columns: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)

    def lines() -> str:
        monkeypatch.setattr(trifles._terminal, "_until", 0.0)
        out = io.StringIO()
        addon = dumper.Dumper(out)
        with taddons.context(addon) as context:
            context.configure(addon, flow_detail=1)
            flow = tflow.tflow(resp=True)
            flow.request.path = "/" + "a" * length
            addon.response(flow)
        return out.getvalue()

    assert f"/{'a' * min(length, 10)}" in _same(lines)[1]
