"""The kinds of values in relay.yaml: each reads what YAML gives, and says in plain words what it expected instead.

What pydantic's constraints can say they say, with an `Expected` beside them for the words; a reader that checks more
raises ValueError with its own. The path and the value given are added where problems are gathered. The validation
context, if any, holds `folder` (what relative paths are relative to) and `environ`.
"""

import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)

from addons.config.loader import FromEnviron, plain_value
from addons.core.balances import KINDS, LEDGER
from addons.core.client_address import parse_network
from addons.core.frozen import FrozenDict, freeze
from addons.core.model_mapping import LONGEST_NAME
from addons.core.redis_address import EXPECTED as REDIS_EXPECTED
from addons.core.redis_address import parse_redis
from addons.core.relay_keys import LEAST, is_name
from addons.core.units import DURATION_EXPECTED, SIZE_EXPECTED, format_duration, format_size, parse_duration, parse_size
from addons.core.urls import PROXY_EXPECTED, URL_EXPECTED, is_host, parse_proxy, parse_upstream, proxy_from_environ

MAX_WORKERS = 64
BALANCE_KINDS = ("auto", *KINDS, LEDGER)
RELAY_SETS = {"model": "chat.model", "messages": None, "stream": None}
"""Fields of a completion request that are relay's own, and the key that has a say in them."""

_WRITTEN = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?")
"""An amount in quotes."""
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")


def plain(value: Any) -> Any:
    """The value as YAML would read it if it is one whole reference: `port: ${PORT}` is a number."""
    if isinstance(value, FromEnviron):
        return plain_value(value) if value.whole else str(value)
    return value


def text(value: Any, expected: str) -> str:
    """The text, as it is. Raises ValueError for anything else, and for none."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(expected)
    return str(value)


def _optional(value: Any, expected: str = "expected text or null") -> str | None:
    """Text, or None where there is none: null, nothing, or a reference that turns out to be either."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, FromEnviron) and plain(value) is None:
        return None
    return text(value, expected)


def _workers(value: Any) -> int | str:
    count = plain(value)
    if count is None:
        return 1
    if count == "auto":
        return "auto"
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_WORKERS:
        raise ValueError(f"expected a whole number from 1 to {MAX_WORKERS}, or auto for one per core")
    return count


def _as_number(written: str) -> str | int:
    return int(written) if written.isdigit() else written


def _as_amount(amount: Decimal) -> int | float:
    return int(amount) if amount == int(amount) else float(amount)


def _host(value: Any) -> str:
    expected = "expected an address to listen on, such as 127.0.0.1, 0.0.0.0 (every interface) or a host's name"
    host = text(value, expected).removeprefix("[").removesuffix("]")
    if not is_host(host):
        raise ValueError(expected)
    return host


def _network(value: Any) -> str:
    expected = "expected an address or a network, such as 10.0.0.7 or 10.0.0.0/8 (no bit set behind the slash's length)"
    network = text(value, expected).strip()
    try:
        parse_network(network)
    except ValueError:
        raise ValueError(expected) from None
    return network


def _header_name(value: Any) -> str:
    expected = "expected a header that names one address or a list of them, such as X-Forwarded-For or X-Real-IP"
    name = text(value, expected).strip()
    if not _HEADER.fullmatch(name) or name.lower() == "forwarded":  # RFC 7239 writes addresses in another way
        raise ValueError(expected)
    return name


def _url(value: Any) -> str:
    url = text(value, URL_EXPECTED)
    parse_upstream(url)
    return url


def _proxy(value: Any, info: ValidationInfo) -> str | None:
    proxy = _optional(value, PROXY_EXPECTED)
    if proxy == "env":
        url = info.data.get("url")
        if url is not None:
            proxy_from_environ(parse_upstream(url), (info.context or {}).get("environ", {}))
    elif proxy is not None:
        parse_proxy(proxy)
    return proxy


def _redis(value: Any) -> str | None:
    address = _optional(value, REDIS_EXPECTED)
    if address is not None:
        parse_redis(address)
    return address


def _balance(value: Any) -> str | None:
    kinds = ", ".join(BALANCE_KINDS)
    kind = _optional(value, f"expected {kinds} or null")
    if kind is not None and kind not in BALANCE_KINDS:
        raise ValueError(f"expected {kinds}, or null for an upstream that tells no balance")
    return kind


def _decimal(value: Any) -> Any:
    """An amount as it is written: 18.5 is no binary fraction. What is no number stays as it is."""
    value = plain(value)
    if isinstance(value, bool) or not (isinstance(value, int | float) or _is_amount(value)):
        return value
    return Decimal(str(value))


def _is_amount(value: Any) -> bool:
    return isinstance(value, str) and _WRITTEN.fullmatch(value) is not None


def _number(value: Any) -> Any:
    """The same, and nothing in quotes."""
    value = plain(value)
    return value if isinstance(value, str) else _decimal(value)


def _secret_key(value: Any) -> str:
    expected = f"expected a key of {LEAST} visible ASCII characters or more, best from the environment: ${{NAME}}"
    key = text(value, expected).strip()
    if len(key) < LEAST or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(expected)
    return key


def _real_key(value: Any) -> str:
    expected = "expected the key of an account upstream, best from the environment: ${NAME}"
    key = text(value, expected).strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(expected)
    return key


def _token(value: Any) -> str | None:
    expected = f"expected {LEAST} visible ASCII characters or more, best from the environment: ${{NAME}}; or null"
    token = _optional(value, expected)
    if token is not None and (len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token):
        raise ValueError(expected)
    return token


def _listen_address(value: Any) -> str | None:
    """`host:port`, an IPv6 address in brackets."""
    expected = "expected a host and a port such as 127.0.0.1:9464 or [::1]:9464, or null"
    address = _optional(value, expected)
    if address is None:
        return None
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not (is_host(bare) and port.isdecimal() and 0 < int(port) < 65536) or (":" in bare) != host.startswith("["):
        raise ValueError(expected)
    return address


def _otlp_url(value: Any) -> str | None:
    expected = "expected the address of a collector such as http://127.0.0.1:4318, or null"
    url = _optional(value, expected)
    if url is not None:
        parse_upstream(url)
    return url


def log_format(value: Any) -> str:
    """`text` or `json`."""
    name = plain(value)
    if name is None:
        return "text"
    if name not in ("text", "json"):
        raise ValueError("expected text or json")
    return str(name)


def _key_name(value: Any) -> str:
    expected = "expected a name of letters, digits and ._@-, such as alice"
    name = text(value, expected)
    if not is_name(name):
        raise ValueError(expected)
    return name


def _day(value: Any) -> date | None:
    """A date, which YAML's own are texts of here."""
    expected = "expected a date such as 2027-01-31, the last day on which the key works (UTC)"
    written = _optional(value, expected)
    if written is None:
        return None
    try:
        return date.fromisoformat(written.strip())
    except ValueError:
        raise ValueError(expected) from None


def _prices(value: Any) -> Any:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError("expected models and what they cost, e.g. {my-model: {input: 2.5, output: 10}}")
    return {str(name): price for name, price in value.items()}


def _model_names(value: Any) -> FrozenDict:
    expected = "expected names of models and what goes up in their place, e.g. {gpt-4o: deepseek-chat}"
    if value is None:
        return FrozenDict()
    if not isinstance(value, Mapping):
        raise ValueError(expected)
    names = {str(name): text(sent, expected) for name, sent in value.items()}
    for name in (*names, *names.values()):
        if not name.strip() or name != name.strip() or len(name) > LONGEST_NAME:
            raise ValueError(f"{expected}, of at most {LONGEST_NAME} characters each")
    return FrozenDict(names)


def _web_path(value: Any) -> str:
    expected = "expected a path such as /chat: a slash first, none last, of letters, digits and -._~!$&'()*+,;=:@/"
    path = text(value, expected)
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ValueError(expected)
    return path


def _file_path(value: Any, info: ValidationInfo) -> Path:
    if isinstance(value, Path):
        path = value
    else:
        path = Path(text(value, "expected the path of a file or folder"))
        if "\0" in str(path):
            raise ValueError("expected a path without a zero byte")
    folder = (info.context or {}).get("folder")
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ValueError("expected a path without ~, since no home folder is known") from None
    return path if folder is None else Path(os.path.abspath(folder / path))


def _readable_file(path: Path, info: ValidationInfo) -> Path:
    if (info.context or {}).get("folder") is None:
        return path
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        # Without the path: it may come from the environment. Where it does not, it is shown as the value given.
        raise ValueError(f"expected a file that can be read; {error.strerror} (from relay.yaml's folder)") from None
    return path


def _authority(value: Any, info: ValidationInfo) -> Path | None:
    """A PEM file of certificates that can be read, or None for null and an empty text."""
    if not isinstance(value, Path):
        value = _optional(value)
    if value is None:
        return None
    path = _readable_file(_file_path(value, info), info)
    if (info.context or {}).get("folder") is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except (ssl.SSLError, OSError):
            raise ValueError("expected a PEM file with certificates (-----BEGIN CERTIFICATE-----)") from None
    return path


def _params(value: Any) -> FrozenDict:
    if value is None:
        return FrozenDict()
    if not isinstance(value, Mapping):
        raise ValueError("expected fields of a completion request, e.g. {temperature: 0.2}")
    for key in value:
        if key in RELAY_SETS:
            instead = f"use {RELAY_SETS[key]} instead" if RELAY_SETS[key] else "leave it out"
            raise ValueError(f"{key} is set by relay; {instead}")
    frozen = freeze(_json(value))
    return frozen if isinstance(frozen, FrozenDict) else FrozenDict()


def _json(value: Any) -> Any:
    """The value with references read, every part of it one that JSON has. YAML's dates are text here already."""
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    value = plain(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("expected numbers that JSON has, so neither .inf nor .nan")
    return value


def _items(value: Any) -> Any:
    return () if value is None else value


@dataclass(frozen=True)
class Expected:
    """What is said of a value that pydantic's constraints refuse."""

    text: str


Reference = BeforeValidator(plain)
"""For what is no text: a value may stand in the environment."""
Flag = Annotated[bool, Field(strict=True), Reference]
OptionalFlag = Annotated[bool | None, Field(strict=True), Reference]
Workers = Annotated[
    int | Literal["auto"],
    BeforeValidator(_workers),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_WORKERS}, {"const": "auto"}]}),
]
Text = Annotated[str, Field(strict=True, pattern=r"\S"), WithJsonSchema({"type": "string"}), Expected("expected text")]
OptionalText = Annotated[str | None, BeforeValidator(_optional)]
_DURATION_OUT = PlainSerializer(lambda seconds: _as_number(format_duration(seconds)), when_used="json")
_DURATION_SCHEMA = WithJsonSchema(
    {"type": ["string", "number"], "description": DURATION_EXPECTED.removeprefix("expected ")}
)
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    Field(gt=0),
    Expected("expected a duration longer than 0"),
    _DURATION_OUT,
    _DURATION_SCHEMA,
]
DurationOrZero = Annotated[float, BeforeValidator(parse_duration), _DURATION_OUT, _DURATION_SCHEMA]


_READ_SIZE = BeforeValidator(parse_size)
_SIZE_OUT = PlainSerializer(lambda count: _as_number(format_size(count)), when_used="json")
_SIZE_SCHEMA = WithJsonSchema({"type": ["string", "integer"], "description": SIZE_EXPECTED.removeprefix("expected ")})
Size = Annotated[int, _READ_SIZE, Field(ge=1), Expected("expected a size of 1 or more"), _SIZE_OUT, _SIZE_SCHEMA]
SizeOrZero = Annotated[int, _READ_SIZE, _SIZE_OUT, _SIZE_SCHEMA]
HeadSize = Annotated[
    int, _READ_SIZE, Field(ge=1024), Expected("expected a size of 1k or more"), _SIZE_OUT, _SIZE_SCHEMA
]
Host = Annotated[str, BeforeValidator(_host)]
Name = Annotated[
    str,
    Field(strict=True, pattern=r"^[a-z0-9][a-z0-9_-]*$"),
    WithJsonSchema({"type": "string"}),  # where it may be ${NAME}, too
    Expected("expected a name of a-z, 0-9, - and _, such as openai"),
]
NetworkText = Annotated[str, BeforeValidator(_network)]
HeaderName = Annotated[str, BeforeValidator(_header_name)]
Url = Annotated[str, BeforeValidator(_url)]
ProxyUrl = Annotated[str | None, BeforeValidator(_proxy)]
RedisUrl = Annotated[str | None, BeforeValidator(_redis)]
RedisPrefix = Annotated[
    str,
    Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"),
    WithJsonSchema({"type": "string"}),  # where it may be ${NAME}, too
    Expected("expected a prefix of at most 64 letters, digits and . _ : -, such as relay"),
]
BalanceKind = Annotated[
    str | None,
    BeforeValidator(_balance),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": [*BALANCE_KINDS]}, {"type": "null"}]}),
]
_Dollars = Annotated[
    Decimal, Field(strict=True, ge=0, le=10**12), Expected("expected an amount in dollars, such as 20 or 18.50")
]
Dollars = Annotated[
    _Dollars | None,
    BeforeValidator(_decimal),
    PlainSerializer(lambda amount: None if amount is None else _as_amount(amount), when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]}),
]
Amount = Annotated[
    _Dollars,
    BeforeValidator(_decimal),
    PlainSerializer(_as_amount, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
Factor = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(strict=True, ge=0, le=10_000),
    Expected("expected a multiplier on list prices, such as 1, 0.8 or 7.2"),
    PlainSerializer(_as_amount, when_used="json"),
    WithJsonSchema({"type": "number", "minimum": 0}),
]
RelayKeyText = Annotated[str, BeforeValidator(_secret_key)]
RealKey = Annotated[str, BeforeValidator(_real_key)]
Token = Annotated[str | None, BeforeValidator(_token)]
ListenAddress = Annotated[str | None, BeforeValidator(_listen_address)]
OtlpUrl = Annotated[str | None, BeforeValidator(_otlp_url)]
KeyName = Annotated[str, BeforeValidator(_key_name)]
Day = Annotated[
    date | None,
    PlainValidator(_day),
    PlainSerializer(lambda day: None if day is None else day.isoformat(), when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]}),
]
Limit = Annotated[
    Annotated[int, Field(strict=True, ge=1)] | None,
    Reference,
    Expected("expected a whole number of 1 or more, or null for no limit"),
]
PriceTable = BeforeValidator(_prices)
ModelNames = Annotated[
    Mapping[str, str],
    PlainValidator(_model_names),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
]
WebPath = Annotated[str, BeforeValidator(_web_path)]
FilePath = Annotated[Path, BeforeValidator(_file_path)]
Authority = Annotated[Path | None, BeforeValidator(_authority)]
ReadableFile = Annotated[Path, BeforeValidator(_file_path), AfterValidator(_readable_file)]
Params = Annotated[Mapping[str, Any], PlainValidator(_params), WithJsonSchema({"type": "object"})]
Items = BeforeValidator(_items)


def inner_types(annotation: Any) -> list[Any]:
    """The types named anywhere in an annotation, in order: X from `tuple[X, ...] | None`."""
    if get_origin(annotation) is None and not get_args(annotation):
        return [annotation]
    return [inner for each in get_args(annotation) for inner in inner_types(each)]
