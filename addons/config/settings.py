"""relay.yaml -> Settings, or an error that names every mistake in it.

Strategy, from the file to the object:
1. `load_settings` reads the file; loader.py makes a tree of it, `${NAME}` replaced.
2. The models below say which keys there are, their kinds (fields.py) and their defaults.
3. messages.py puts into words what does not fit them, and compares what stands in different places.
Each step notes what is wrong and goes on, so that one start shows every mistake. Nothing here keeps state or looks at
`os.environ`: the environment is handed in, and a new file makes a new object.
"""

import json
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from addons.config import fields, loader, messages
from addons.config.mistakes import ConfigError, Location, Problem, dotted, hide_secrets
from addons.core.frozen import FrozenDict
from addons.core.rates import RATE_NAMES
from addons.core.urls import Address, Proxy, parse_proxy, parse_upstream, proxy_from_environ

__all__ = [
    "ConfigError",
    "Problem",
    "Settings",
    "describe_settings",
    "load_settings",
    "settings_path",
    "settings_schema",
]


class _Section(BaseModel):
    """What all sections have in common: no keys but these, and no change."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def _empty_section(value: Any) -> Any:
    return {} if value is None else value


_OrEmpty = BeforeValidator(_empty_section)


class Tls(_Section):
    """The certificate relay shows, and what becomes of plain HTTP on the same port."""

    cert: fields.ReadableFile
    key: fields.ReadableFile
    plain: Literal["allow", "refuse"] = "allow"


class ListenSettings(_Section):
    """Where relay listens."""

    host: fields.Host = "127.0.0.1"
    port: Annotated[int, Field(strict=True, ge=1, le=65535), fields.Reference] = 8080
    tls: Tls | None = None


class Upstream(_Section):
    """An API that relay passes requests to."""

    name: fields.Name
    url: fields.Url
    model: fields.OptionalText = None
    proxy: Annotated[fields.ProxyUrl, Field(repr=False)] = None
    balance: fields.BalanceKind = "auto"
    granted: fields.Dollars = None
    ca: fields.Authority = None
    keys: Annotated[tuple[fields.RealKey, ...], fields.Items, Field(repr=False)] = ()
    price: fields.Factor = Decimal(1)
    warm: Annotated[int, Field(strict=True, ge=0, le=100), fields.Reference] = 0

    _address: Address = PrivateAttr()
    _proxy: Proxy | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:
        """Works out the parts of the addresses, once; `proxy: env` asks the environment in the validation context."""
        self._address = parse_upstream(self.url)
        if self.proxy == "env":
            self._proxy = proxy_from_environ(self._address, (context or {}).get("environ", {}))
        elif self.proxy is not None:
            self._proxy = parse_proxy(self.proxy)

    @cached_property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self._address.scheme

    @cached_property
    def host(self) -> str:
        """The host, an IPv6 address without brackets."""
        return self._address.host

    @cached_property
    def port(self) -> int:
        """The port, the scheme's own if the url has none."""
        return self._address.port

    @cached_property
    def prefix(self) -> str:
        """What goes before the path of a request: `""` or like `/proxy`, never with a final slash or `/v1`."""
        return self._address.prefix

    @cached_property
    def versioned(self) -> bool:
        """Whether the prefix has a version of its own, in the place of `/v1`."""
        return self._address.versioned

    def path(self, path: str) -> str:
        """Where `path` of OpenAI's interface, `/v1/...` or another, lies at this upstream. Without the query."""
        return self._address.path(path)

    @cached_property
    def authority(self) -> str:
        """The Host header."""
        return self._address.authority

    @cached_property
    def via(self) -> tuple[str, int] | None:
        """Host and port of the HTTP proxy on the way out, if there is one."""
        return self.way[1] if self.way is not None and self.way[0] == "http" else None

    @cached_property
    def way(self) -> tuple[Literal["http"], tuple[str, int]] | None:
        """Scheme and address of the proxy on the way out, HTTP or SOCKS, if there is one."""
        scheme: Any = self._proxy.scheme if self._proxy else None  # mitmproxy's type for it knows HTTP alone
        return (scheme, (self._proxy.host, self._proxy.port)) if self._proxy else None

    @cached_property
    def proxy_auth(self) -> str | None:
        """`user:pass` for that proxy, if its url has them."""
        return self._proxy.auth if self._proxy else None


class Route(_Section):
    """A path under which another upstream is reached. The prefix is removed; the longest match wins."""

    path: fields.WebPath
    upstream: fields.Name


class ContextSettings(_Section):
    """How much of a session goes upstream again: turns, and tokens by estimate."""

    max_turns: Annotated[int, Field(strict=True, ge=0), fields.Reference] = 50
    max_tokens: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 3000


class ChatSettings(_Section):
    """`POST /chat`. Durations in seconds, `max_body` and `max_answer` in bytes, other limits in Unicode code points."""

    paths: Annotated[tuple[fields.WebPath, ...], fields.Items] = ("/chat", "/pro/chat/completions")
    model: fields.Text = "gpt-3.5-turbo"
    system: Annotated[fields.OptionalText, Field(repr=False)] = None
    params: Annotated[fields.Params, Field(repr=False)] = Field(default_factory=FrozenDict)
    session_ttl: fields.Duration = 1800.0
    max_content: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 1000
    max_session_id: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 64
    max_api_key: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 256
    max_waiting: Annotated[int, Field(strict=True, ge=0), fields.Reference] = 16
    max_body: fields.Size = 64 * 1024
    max_answer: fields.Size = 4 * 1024**2
    timeout: fields.Duration = 300.0
    allow: Annotated[tuple[fields.Text, ...], fields.Items] = (
        "model",
        "system",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "reasoning_effort",
        "response_format",
    )
    context: Annotated[ContextSettings, _OrEmpty] = Field(default_factory=ContextSettings)


class BalanceSettings(_Section):
    """`GET /pro/balance`. `timeout` and `cache` in seconds."""

    paths: Annotated[tuple[fields.WebPath, ...], fields.Items] = ("/pro/balance",)
    window_days: Annotated[int, Field(strict=True, ge=1, le=99), fields.Reference] = 90
    timeout: fields.Duration = 10.0
    cache: fields.Duration = 5.0


class BudgetSettings(_Section):
    """What a relay key may spend: US dollars a day, a month (UTC), or in all."""

    amount: fields.Amount
    per: Literal["day", "month", "total"] = "total"


class RateSettings(_Section):
    """What a relay key may ask for in any minute."""

    requests: fields.Limit = None
    tokens: fields.Limit = None


class ListedKey(_Section):
    """A key that relay hands out."""

    name: fields.KeyName
    key: Annotated[fields.RelayKeyText, Field(repr=False)]
    upstream: fields.OptionalText = None
    models: Annotated[tuple[fields.Text, ...], fields.Items] = ()
    paths: Annotated[tuple[fields.Text, ...], fields.Items] = ()
    budget: BudgetSettings | None = None
    rate: Annotated[RateSettings, _OrEmpty] = Field(default_factory=RateSettings)
    parallel: fields.Limit = None
    expires: fields.Day = None


class KeysSettings(_Section):
    """Keys that relay hands out, and callers with keys of their own. `reserve_output` in tokens."""

    open: fields.OptionalFlag = None
    reserve_output: fields.Limit = None
    unbounded: Literal["hold", "refuse"] = "hold"
    list: Annotated[tuple[ListedKey, ...], fields.Items] = ()


class Price(_Section):
    """What a model costs: US dollars a million tokens, `searches` a thousand, `hours` an hour of audio, `characters` a
    million, `request` each; `context` and `max_output` in tokens."""

    input: fields.Dollars = None
    output: fields.Dollars = None
    cached: fields.Dollars = None
    cache_write: fields.Dollars = None
    cache_write_1h: fields.Dollars = None
    input_audio: fields.Dollars = None
    cached_audio: fields.Dollars = None
    input_image: fields.Dollars = None
    cached_image: fields.Dollars = None
    output_audio: fields.Dollars = None
    output_image: fields.Dollars = None
    reasoning: fields.Dollars = None
    searches: fields.Dollars = None
    hours: fields.Dollars = None
    characters: fields.Dollars = None
    request: fields.Dollars = None
    context: fields.Limit = None
    max_output: fields.Limit = None

    def rates(self) -> dict[str, Decimal]:
        """The rates that are given, by the names of `core.rates`."""
        return {name: price for name in RATE_NAMES if (price := getattr(self, name)) is not None}


class StoreSettings(_Section):
    """Where sessions are kept; `path` is absolute once loaded."""

    kind: Literal["shelve"] = "shelve"
    path: fields.FilePath = Path(".relay")
    max_sessions: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 100_000
    max_sessions_per_key: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 1000


with warnings.catch_warnings():
    # pydantic warns that `json` hides a method of its own that has had another name since its version 2.
    warnings.simplefilter("ignore", UserWarning)

    class LimitsSettings(_Section):
        """Bounds of every exchange, in bytes and seconds."""

        body: fields.Size = 512 * 1024**2
        json: fields.Size = 32 * 1024**2  # type: ignore[assignment]
        held: fields.Size = 256 * 1024**2
        header_size: fields.HeadSize = 64 * 1024
        connect: fields.Duration = 10.0
        headers: fields.Duration = 20.0
        keepalive: fields.Duration = 75.0
        idle: fields.Duration = 3600.0
        upstream_idle: fields.Duration = 60.0


class InspectSettings(_Section):
    """What a person sees in mitmweb; `max_body` in bytes."""

    redact: fields.Flag = True
    keep_flows: Annotated[int, Field(strict=True, ge=0), fields.Reference] = 1000
    keep_bytes: fields.SizeOrZero = 256 * 1024**2
    max_body: fields.SizeOrZero = 1024**2


class PageSettings(_Section):
    """The page at `/`, for people."""

    enabled: fields.Flag = True


class EngineSettings(_Section):
    """What relay changes of mitmproxy for speed alone."""

    fast: fields.Flag = True


class ReplaySettings(_Section):
    """`./run.sh replay`: fields of a JSON body that are not compared, `user` or deeper ones as in `metadata.run`."""

    ignore: Annotated[tuple[fields.Text, ...], fields.Items] = ("user", "seed", "safety_identifier", "prompt_cache_key")


def _default_upstreams() -> tuple[Upstream, ...]:
    return (Upstream(name="openai", url="https://api.openai.com"),)


def _upstreams(value: Any) -> Any:
    if value == [] or value == ():
        raise ValueError("expected at least one upstream, e.g. [{name: openai, url: https://api.openai.com}]")
    return _default_upstreams() if value is None else value


class Settings(_Section):
    """relay.yaml, checked. Immutable; equal if what it asks for is equal, whichever file it comes from."""

    listen: Annotated[ListenSettings, _OrEmpty] = Field(default_factory=ListenSettings)
    workers: fields.Workers = 1
    upstreams: Annotated[tuple[Upstream, ...], BeforeValidator(_upstreams)] = Field(default_factory=_default_upstreams)
    routes: Annotated[tuple[Route, ...], fields.Items] = ()
    chat: Annotated[ChatSettings, _OrEmpty] = Field(default_factory=ChatSettings)
    balance: Annotated[BalanceSettings, _OrEmpty] = Field(default_factory=BalanceSettings)
    keys: Annotated[KeysSettings, _OrEmpty] = Field(default_factory=KeysSettings)
    prices: Annotated[Mapping[str, Price], fields.PriceTable, AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict
    )
    store: Annotated[StoreSettings, _OrEmpty] = Field(default_factory=StoreSettings)
    limits: Annotated[LimitsSettings, _OrEmpty] = Field(default_factory=LimitsSettings)
    inspect: Annotated[InspectSettings, _OrEmpty] = Field(default_factory=InspectSettings)
    replay: Annotated[ReplaySettings, _OrEmpty] = Field(default_factory=ReplaySettings)
    page: Annotated[PageSettings, _OrEmpty] = Field(default_factory=PageSettings)
    engine: Annotated[EngineSettings, _OrEmpty] = Field(default_factory=EngineSettings)

    _source: Path | None = PrivateAttr(default=None)
    _text: str = PrivateAttr(default="")
    _written: Mapping[str, str] = PrivateAttr(default=FrozenDict())

    def model_post_init(self, context: Any) -> None:
        """Notes where the settings come from, and what the file says where the environment supplied text."""
        self._source = (context or {}).get("source")
        self._text = (context or {}).get("text", "")
        self._written = FrozenDict((context or {}).get("written", {}))

    @property
    def source(self) -> Path | None:
        """The file, None for settings that came from none."""
        return self._source

    @property
    def text(self) -> str:
        """What the file said when it was read."""
        return self._text

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield "source", self._source  # and nothing that the environment may have supplied: this ends up in logs

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if isinstance(other, Settings) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))


def settings_path(option: str, environ: Mapping[str, str], root: Path) -> Path:
    """The file in force: the option if it is not empty, else RELAY_CONFIG, else relay.yaml in `root`. Absolute."""
    named = option or environ.get("RELAY_CONFIG", "")
    return Path(named).expanduser().absolute() if named else root / "relay.yaml"


def load_settings(path: Path | None, environ: Mapping[str, str], text: str | None = None) -> Settings:
    """The settings of a file, or for None those of an empty one in the current folder.

    `text` is taken in place of what the file says now. Raises ConfigError with every mistake at once.
    """
    source = "relay.yaml" if path is None else str(path)
    if text is None:
        text = "" if path is None else loader.text_of(path)
    tree, problems, places = loader.read(text, environ)
    if problems and tree is None:
        raise ConfigError(problems, source)
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError([Problem("", "", "expected keys such as listen: and upstreams:, each with a colon")], source)
    # A section that is left out has defaults that depend on where the file lies, so it is read like an empty one.
    tree = {section: None for section in Settings.model_fields} | tree
    context = {
        "folder": Path.cwd() if path is None else path.absolute().parent,
        "environ": environ,
        "source": path,
        "text": text,
        "written": dict(_supplied(tree, ())),
    }
    settings = None
    found: list[Problem] = []
    try:
        settings = Settings.model_validate(tree, context=context)
    except ValidationError as error:
        found = messages.misfits(Settings, error)
    found += messages.crossings(tree, Settings().model_dump())
    unread = {problem.path for problem in problems if problem.value}  # what stands there now is only a stopgap
    problems += [problem for problem in found if problem.path not in unread]
    # Not from within the except clause: a traceback must not show what the message hides.
    if problems or settings is None:
        raise ConfigError(problems, source, places)
    return settings


def taking_restart(before: Settings, after: Settings) -> list[str]:
    """The keys that were changed and are read at the start only, however relay.yaml is read again."""
    pairs = {
        "listen.host": (before.listen.host, after.listen.host),
        "listen.port": (before.listen.port, after.listen.port),
        "listen.tls": (before.listen.tls is None, after.listen.tls is None),
        "workers": (before.workers, after.workers),
    }
    return [key for key, (old, new) in pairs.items() if old != new]


def _supplied(value: Any, where: Location) -> Iterator[tuple[str, str]]:
    """Path and wording of each text that the environment had a part in."""
    if isinstance(value, loader.FromEnviron):
        if value.supplied:
            yield dotted(where), value.written
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _supplied(each, (*where, key))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from _supplied(each, (*where, index))


class _Dumper(yaml.SafeDumper):
    """Writes what loader.py reads: text that either YAML 1.1 or 1.2 takes for something else stands in quotes."""


for _name, _pattern, _ in loader.PLAIN:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", loader.whole(_pattern), None)


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes the line breaks that only Unicode knows as they are, and reads them as others.
    style = '"' if set(text) & set("\x85\u2028\u2029") else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text_node)


_KEYS = re.compile(r"keys\.list\[\d+\]\.key|upstreams\[\d+\]\.keys\[\d+\]")
"""Where a text is a key, whatever it looks like."""


def describe_settings(settings: Settings) -> str:
    """YAML of what is in force: loaded again, in the same folder, it gives equal settings wherever nothing is hidden.

    Text from the environment is shown as the file has it (`${NAME}`), keys and passwords as asterisks.
    """

    def shown(value: Any, held: Any, where: Location) -> Any:
        """`value` as it is written, `held` as the settings have it: a duration is text in the former only."""
        if isinstance(value, dict):
            return {key: shown(value[key], held[key], (*where, key)) for key in value}
        if isinstance(value, list):
            return [shown(value[index], held[index], (*where, index)) for index in range(len(value))]
        if isinstance(held, str) and dotted(where) in settings._written:
            return hide_secrets(settings._written[dotted(where)])
        if isinstance(held, str) and _KEYS.fullmatch(dotted(where)):
            return "***"
        return hide_secrets(value).replace("${", "$${") if isinstance(value, str) else value

    tree = shown(settings.model_dump(mode="json"), settings.model_dump(), ())
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100))


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of relay.yaml, for editors."""
    return Settings.model_json_schema()


if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        raise SystemExit("python -m addons.config.settings --schema prints the JSON Schema of relay.yaml")
    print(json.dumps(settings_schema(), indent=2, ensure_ascii=False))
