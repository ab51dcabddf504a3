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
from addons.core.client_address import Network, parse_network
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
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


def _empty_section(value: Any) -> Any:
    return {} if value is None else value


_OrEmpty = BeforeValidator(_empty_section)


class Tls(_Section):
    """The certificate relay shows, and what becomes of plain HTTP on the same port."""

    cert: fields.ReadableFile
    """The certificate's file in PEM, the chain behind it included; relative to relay.yaml."""
    key: fields.ReadableFile
    """The file of the certificate's private key in PEM; relative to relay.yaml."""
    plain: Literal["allow", "refuse"] = "allow"
    """What becomes of plain HTTP on the same port: `allow` serves it, `refuse` answers 400. Refuse it where keys must
    not travel in the open."""


class ClientAddressSettings(_Section):
    """Who says whose a connection is, where proxies stand before relay."""

    source: Literal["peer", "proxy_protocol", "header"] = "peer"
    """Where a client's address comes from: `peer` is whoever connects; `proxy_protocol`, what a proxy says before the
    first byte (version 1 or 2); `header`, what it writes into `header`. See [Whose a request
    is](deployment.md#whose-a-request-is)."""
    header: fields.HeaderName = "X-Forwarded-For"
    """The header that names the client, as the proxies in `trusted` set it; of several addresses in it, the last one
    that is not theirs counts. It does not go up."""
    trusted: Annotated[tuple[fields.NetworkText, ...], fields.Items] = ()
    """Addresses and networks of the proxies that are believed, e.g. `[10.0.0.0/8]`; whoever else connects is a client
    itself. `header` needs some. With `proxy_protocol`, none means that whoever connects is a proxy: let nobody else
    reach the port then."""

    _networks: tuple[Network, ...] = PrivateAttr(default=())

    def model_post_init(self, context: Any) -> None:
        """Reads the networks, once."""
        self._networks = tuple(parse_network(each) for each in self.trusted)

    @property
    def networks(self) -> tuple[Network, ...]:
        """Those in `trusted`."""
        return self._networks


class ListenSettings(_Section):
    """Where relay listens."""

    host: fields.Host = "127.0.0.1"
    """The address to listen on. `0.0.0.0` lets other machines in; see [Serving others](deployment.md#serving-others)
    before."""
    port: Annotated[int, Field(strict=True, ge=1, le=65535), fields.Reference] = 8080
    """The port to listen on. Change it where another program has 8080."""
    tls: Tls | None = None
    """The certificate that relay shows to clients; `null`: plain HTTP alone. See [Serving
    others](deployment.md#serving-others)."""
    client_address: Annotated[ClientAddressSettings, _OrEmpty] = Field(default_factory=ClientAddressSettings)
    """Whose a connection is, for `limits.per_address` and for whoever looks, where proxies stand before relay."""


class Upstream(_Section):
    """An API that relay passes requests to."""

    name: fields.Name
    """What routes, keys and reports call it: of a-z, 0-9, `-` and `_`."""
    url: fields.Url
    """Its address, which may carry a port and a path. A `/v1` at its end makes no difference; another version in it
    stands in the place of `/v1`."""
    model: fields.OptionalText = None
    """What `/chat` asks this upstream for, if not `chat.model`. Set it where the upstream does not have that model."""
    models: fields.ModelNames = Field(default_factory=FrozenDict)
    """Names of models that are changed on the way up, e.g. `{gpt-4o: deepseek-chat}`. Set them where apps ask for
    models that the upstream calls otherwise; JSON bodies are read for it. See [Models by other
    names](networks.md#models-by-other-names)."""
    proxy: Annotated[fields.ProxyUrl, Field(repr=False)] = None
    """A proxy on the way out: `http://`, `socks5h://` or `socks5://`, or `env` for what the environment says. See
    [Behind a bad network](networks.md#behind-a-bad-network)."""
    balance: fields.BalanceKind = "auto"
    """How to ask for the balance, by one of [these ways](balance.md#how-each-upstream-is-asked). `auto`: by its host,
    else by trying; `null`: this upstream does not tell."""
    granted: fields.Dollars = None
    """Dollars that were paid in, for upstreams that tell only what is left, or only what was used."""
    ca: fields.Authority = None
    """A PEM file, relative to relay.yaml: an authority trusted for this upstream besides the public ones. For upstreams
    with a certificate of a private authority."""
    keys: Annotated[tuple[fields.RealKey, ...], fields.Items, Field(repr=False)] = ()
    """relay's own keys there, for callers with [relay keys](keys.md), e.g. `["${OPENAI_KEY}"]`; of several, a
    conversation [stays with one](failover.md#key-pools)."""
    price: fields.Factor = Decimal(1)
    """What [list prices](balance.md#what-a-request-costs) are multiplied by at this upstream: 0.8 for a discount, 7.2
    where it counts in another currency."""
    fallback: Annotated[tuple[fields.Name, ...], fields.Items] = ()
    """Names of other upstreams, [tried in this order](failover.md#failover) where this one fails, for callers with
    relay keys. Each has `keys` of its own."""
    retries: Annotated[int, Field(strict=True, ge=0, le=10), fields.Reference] = 2
    """Repeats [at the same place](failover.md#what-is-repeated), where nothing can have been billed. `0`: none."""
    idempotent: fields.Flag = False
    """Whether it honours `Idempotency-Key`: a request with one may then be repeated there though it broke."""
    warm: Annotated[int, Field(strict=True, ge=0, le=100), fields.Reference] = 0
    """Connections that are kept ready for it, in each process, so that a new client need not wait for TCP and TLS.
    Raise it where the upstream is far away; see [Networks](networks.md#behind-a-bad-network)."""

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
    """The start of the paths that go to this upstream, such as `/deepseek`. It is removed on the way up; the longest
    match wins."""
    upstream: fields.Name
    """A name from `upstreams`."""


class ContextSettings(_Section):
    """How much of a session goes upstream again: turns, and tokens by estimate."""

    max_turns: Annotated[int, Field(strict=True, ge=0), fields.Reference] = 50
    """Turns of a session that go upstream again, at most. Fewer make requests cheaper, and conversations forgetful."""
    max_tokens: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 3000
    """Tokens of a request, at most; counted where the upstream tells, else estimated. The oldest turns are left out
    first."""


class ChatSettings(_Section):
    """`POST /chat`. Durations in seconds, `max_body` and `max_answer` in bytes, other limits in Unicode code points."""

    paths: Annotated[tuple[fields.WebPath, ...], fields.Items] = ("/chat", "/pro/chat/completions")
    """Where messages are taken; all of them share the sessions."""
    model: fields.Text = "gpt-3.5-turbo"
    """The model that answers, where neither the message nor the upstream names one."""
    system: Annotated[fields.OptionalText, Field(repr=False)] = None
    """A system message for every session; a message may bring its own. `null`: none."""
    params: Annotated[fields.Params, Field(repr=False)] = Field(default_factory=FrozenDict)
    """Further fields of the completion request, e.g. `{temperature: 0.2}`."""
    session_ttl: fields.Duration = 1800.0
    """A session is forgotten this long after its last turn."""
    max_content: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 1000
    """Characters (Unicode code points) of a message, at most."""
    max_session_id: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 64
    """Characters of a `sessionId`, at most."""
    max_api_key: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 256
    """Characters of a key, at most. Raise it for upstreams with longer ones."""
    max_waiting: Annotated[int, Field(strict=True, ge=0), fields.Reference] = 16
    """Messages of one session that may wait for the one before; more are answered code 409."""
    max_body: fields.Size = 64 * 1024
    """Size of a request, at most."""
    max_answer: fields.Size = 4 * 1024**2
    """Size of the upstream's answer, at most; a longer one is answered code 502."""
    timeout: fields.Duration = 300.0
    """Time for the whole answer of the upstream. Raise it for models that think for long."""
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
    """Fields of the completion request that a message may set itself. Shorten it where callers must not choose the
    model."""
    context: Annotated[ContextSettings, _OrEmpty] = Field(default_factory=ContextSettings)
    """What of a session goes upstream again."""


class BalanceSettings(_Section):
    """`GET /pro/balance`. `timeout` and `cache` in seconds."""

    paths: Annotated[tuple[fields.WebPath, ...], fields.Items] = ("/pro/balance",)
    """Where balances are asked for."""
    window_days: Annotated[int, Field(strict=True, ge=1, le=99), fields.Reference] = 90
    """`used` counts so many days, at most 99."""
    timeout: fields.Duration = 10.0
    """Time for each question to the upstream."""
    cache: fields.Duration = 5.0
    """Time for which an answer is told again, to the same key."""


class BudgetSettings(_Section):
    """What a relay key may spend: US dollars a day, a month (UTC), or in all."""

    amount: fields.Amount
    """What may be spent, in US dollars."""
    per: Literal["day", "month", "total"] = "total"
    """In which span of time: a `day` or a `month` (both UTC), or in all."""


class RateSettings(_Section):
    """What a relay key may ask for in any minute."""

    requests: fields.Limit = None
    """Requests in any minute, at most; `null`: no limit."""
    tokens: fields.Limit = None
    """Tokens in any minute, at most; `null`: no limit. The request that passes it still goes up, the next one waits."""


class ListedKey(_Section):
    """A key that relay hands out."""

    name: fields.KeyName
    """What reports call it: letters, digits and `._@-`."""
    key: Annotated[fields.RelayKeyText, Field(repr=False)]
    """The key itself, 20 characters or more, best from the environment."""
    upstream: fields.OptionalText = None
    """A name from `upstreams`; `null`: where the path leads."""
    models: Annotated[tuple[fields.Text, ...], fields.Items] = ()
    """Models it may use, as its caller writes them, `*` and `?` allowed; empty: all."""
    paths: Annotated[tuple[fields.Text, ...], fields.Items] = ()
    """Paths it may use, and those below them; empty: all, but with a budget or a list of models only those whose cost
    and model are known."""
    budget: BudgetSettings | None = None
    """What it may spend; `null`: anything."""
    rate: Annotated[RateSettings, _OrEmpty] = Field(default_factory=RateSettings)
    """What it may ask for in any minute."""
    parallel: fields.Limit = None
    """Requests at the same time, at most; `null`: no limit."""
    expires: fields.Day = None
    """The last day on which it works (UTC), such as `2027-01-31`; `null`: it does not end."""


class KeysSettings(_Section):
    """Keys that relay hands out, and callers with keys of their own. `reserve_output` in tokens."""

    open: fields.OptionalFlag = None
    """Whether callers with keys of their own are served. `null`: until the first key is handed out."""
    reserve_output: fields.Limit = None
    """Tokens of an answer, written into requests that set no bound; `null`: as many as the model can are held. Set it
    where budgets are small, since what is held can't be spent elsewhere."""
    unbounded: Literal["hold", "refuse"] = "hold"
    """Input that can't be told from the request, of keys with a budget: `hold` the model's whole context window, or
    `refuse`."""
    list: Annotated[tuple[ListedKey, ...], fields.Items] = ()
    """Keys that stand here, besides those of `./run.sh keys`."""


class Price(_Section):
    """What a model costs: US dollars a million tokens, `searches` a thousand, `hours` an hour of audio, `characters` a
    million, `request` each; `context` and `max_output` in tokens."""

    input: fields.Dollars = None
    """US dollars for a million tokens of input, which is what all rates down to `reasoning` are for."""
    output: fields.Dollars = None
    """Tokens of output, reasoning included."""
    cached: fields.Dollars = None
    """Input that upstream had in its cache."""
    cache_write: fields.Dollars = None
    """Input that upstream puts into its cache."""
    cache_write_1h: fields.Dollars = None
    """Input that upstream keeps in its cache for an hour (Anthropic)."""
    input_audio: fields.Dollars = None
    """Audio in the input."""
    cached_audio: fields.Dollars = None
    """Audio in the input that upstream had in its cache."""
    input_image: fields.Dollars = None
    """Images in the input, where they cost something else than text."""
    cached_image: fields.Dollars = None
    """Images in the input that upstream had in its cache."""
    output_audio: fields.Dollars = None
    """Audio in the output."""
    output_image: fields.Dollars = None
    """Images in the output."""
    reasoning: fields.Dollars = None
    """Reasoning, where it costs something else than other output."""
    searches: fields.Dollars = None
    """US dollars for a thousand searches of the web."""
    hours: fields.Dollars = None
    """US dollars for an hour of audio, where its length is billed."""
    characters: fields.Dollars = None
    """US dollars for a million characters of text that is read aloud."""
    request: fields.Dollars = None
    """US dollars for each request, or for each picture that is drawn; with no other rate, that is all it costs."""
    context: fields.Limit = None
    """Tokens of the context window: what is held for input that can't be told from the request."""
    max_output: fields.Limit = None
    """Tokens of one answer, where a request sets no bound."""

    def rates(self) -> dict[str, Decimal]:
        """The rates that are given, by the names of `core.rates`."""
        return {name: price for name in RATE_NAMES if (price := getattr(self, name)) is not None}


class StoreSettings(_Section):
    """Where sessions are kept; `path` is absolute once loaded."""

    kind: Literal["shelve", "redis"] = "shelve"
    """`shelve`: in a folder, for the processes of one relay. `redis`: in a [Redis](shared.md) that several relays
    share."""
    path: fields.FilePath = Path(".relay")
    """A folder for sessions, the ledger and the hashes of keys, relative to relay.yaml; one relay at a time. With
    `redis` it has a copy of the ledger, for reports."""
    url: Annotated[fields.RedisUrl, Field(repr=False)] = None
    """Where that Redis is: `redis://`, `rediss://` (TLS), or `redis+sentinel://HOST,HOST/MASTER`. Write it as
    `${REDIS_URL}`, since a password stands in it."""
    prefix: fields.RedisPrefix = "relay"
    """How the names of all of relay's keys in Redis begin: those who share it share everything."""
    on_failure: Literal["refuse", "pass"] = "refuse"
    """What becomes of relay keys without a budget while Redis is away: `refuse`, or `pass` without their limits. Keys
    with a budget are refused in either case, callers' own keys in none."""
    max_sessions: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 100_000
    """Sessions in all; beyond it, the one unused for longest makes room."""
    max_sessions_per_key: Annotated[int, Field(strict=True, ge=1), fields.Reference] = 1000
    """Sessions of one key; beyond it, its one unused for longest makes room."""


class PerAddressSettings(_Section):
    """What one client's address may have and ask for: an IPv4 address, or an IPv6 network of 64 bits."""

    connections: fields.Limit = 200
    """Connections of an address at a time, at most; requests at a time, where a proxy names the address in a header.
    `null`: no limit. Raise it where many people share an address."""
    requests: fields.Limit = None
    """Requests of an address in any minute, at most; `null`: no limit."""


with warnings.catch_warnings():
    # pydantic warns that `json` hides a method of its own that has had another name since its version 2.
    warnings.simplefilter("ignore", UserWarning)

    class LimitsSettings(_Section):
        """Bounds of every exchange, in bytes and seconds."""

        body: fields.Size = 512 * 1024**2
        """Size of a request's body, at most; answers are never bounded."""
        json: fields.Size = 32 * 1024**2  # type: ignore[assignment]
        """Size of a body that relay has to read, at most: generations of [relay keys](keys.md), and what may name a
        model at an upstream with `models`."""
        held: fields.Size = 256 * 1024**2
        """Size of all bodies together that relay has to read (`limits.json`), in a process and as far as each is over 1
        MiB; more are refused for the moment. Bodies of 64 KiB at most that it keeps [to send them
        again](failover.md#what-is-repeated) count, too; those for which there is no room pass, and are not repeated.
        Lower it where memory is short."""
        header_size: fields.HeadSize = 64 * 1024
        """Size of a request's head, at most, which has at most 1000 headers."""
        connect: fields.Duration = 10.0
        """Time until the upstream is reached, proxy and TLS included. Raise it behind a slow network."""
        headers: fields.Duration = 20.0
        """Time until a client has sent the head of its request."""
        keepalive: fields.Duration = 75.0
        """Time until a client's unused connection is closed."""
        idle: fields.Duration = 3600.0
        """Time until an exchange in which nothing moves is given up: who has had nothing of an answer gets 504, in
        `/chat` code 408. Models that think for long are silent meanwhile."""
        attempts: Annotated[int, Field(strict=True, ge=1, le=100), fields.Reference] = 8
        """How often one request may go upstream, [all keys and upstreams](failover.md) together."""
        attempt_time: fields.Duration = 60.0
        """Time in which all of these attempts begin."""
        queue: fields.DurationOrZero = 0.0
        """Time that a request may [wait for a key](failover.md#waiting-for-a-key) where upstream has refused all for
        now. `0`: not at all."""
        upstream_idle: fields.Duration = 60.0
        """Time that a connection to an upstream rests between two exchanges, 15 s at most behind a proxy. Lower it
        where the upstream, or a firewall on the way, closes idle connections sooner."""
        drain: fields.DurationOrZero = 30.0
        """Time that what is under way has to come to its end after SIGTERM; see [Ending](deployment.md#ending). `0`:
        none."""
        per_address: Annotated[PerAddressSettings, _OrEmpty] = Field(default_factory=PerAddressSettings)
        """Bounds of each client's address, counted by each process for itself; addresses of this machine have none. See
        [Limits of an address](deployment.md#limits-of-an-address)."""


class InspectSettings(_Section):
    """What a person sees in mitmweb; `max_body` in bytes."""

    redact: fields.Flag = True
    """Hide keys in what mitmweb shows and `-w` saves. Leave it on wherever others look, or files are
    kept."""
    keep_flows: Annotated[int, Field(strict=True, ge=0), fields.Reference] = 1000
    """Exchanges that mitmweb keeps; the older ones are dropped."""
    keep_bytes: fields.SizeOrZero = 256 * 1024**2
    """Memory that the exchanges which mitmweb keeps may take together, roughly; the older ones are dropped."""
    keep_threads: fields.SizeOrZero = 64 * 1024**2
    """Memory that requests may take which later ones of their [thread](mitmweb.md#threads-and-causes) are compared
    with, roughly; the threads longest unused are forgotten. `0`: no threads and no causes are told."""
    max_body: fields.SizeOrZero = 1024**2
    """Of each body, at most so much is kept to look at; what passes is not cut."""


class PageSettings(_Section):
    """The page at `/`, for people."""

    enabled: fields.Flag = True
    """A page for people at `/`; `false`: `/` is 404 like any unknown path."""


class MetricsSettings(_Section):
    """Numbers for Prometheus at `/metrics`, and who may read them."""

    enabled: fields.Flag = True
    """Numbers for Prometheus at `/metrics`; see [Observing](observing.md). `false`: nothing is counted."""
    token: Annotated[fields.Token, Field(repr=False)] = None
    """Whoever shows it as bearer may read `/metrics`. With neither `token` nor `listen` only programs on this machine
    may; see [Who may read them](observing.md#who-may-read-them)."""
    listen: fields.ListenAddress = None
    """A second address, host and port such as `127.0.0.1:9464`, where `/metrics` is served and nothing else; not at the
    first one, then."""


class TelemetrySettings(_Section):
    """Spans for OpenTelemetry."""

    otlp: fields.OtlpUrl = None
    """Where spans go, by OTLP over HTTP in JSON: a collector's address such as `http://127.0.0.1:4318`, to which
    `/v1/traces` is added; see [Traces](observing.md#traces)."""
    content: fields.Flag = False
    """Spans carry what was asked and answered, too, without keys and cut to 16 KiB each. Leave it off where a
    collector's readers must not see conversations."""


class EngineSettings(_Section):
    """What relay changes of mitmproxy for speed alone."""

    fast: fields.Flag = True
    """Faster code in place of some of mitmproxy's, with the same effect; `false`: mitmproxy's own, in case of doubt.
    Long turns have no pauses then, so that a large message delays other clients for longer."""


class ReplaySettings(_Section):
    """`./run.sh replay`: fields of a JSON body that are not compared, `user` or deeper ones as in `metadata.run`."""

    ignore: Annotated[tuple[fields.Text, ...], fields.Items] = ("user", "seed", "safety_identifier", "prompt_cache_key")
    """Fields of a JSON body that may differ from the recorded ones; `metadata.run` names a deeper one."""


def _default_upstreams() -> tuple[Upstream, ...]:
    return (Upstream(name="openai", url="https://api.openai.com"),)


def _upstreams(value: Any) -> Any:
    if value == [] or value == ():
        raise ValueError("expected at least one upstream, e.g. [{name: openai, url: https://api.openai.com}]")
    return _default_upstreams() if value is None else value


class Settings(_Section):
    """relay.yaml, checked. Immutable; equal if what it asks for is equal, whichever file it comes from."""

    listen: Annotated[ListenSettings, _OrEmpty] = Field(default_factory=ListenSettings)
    """Where relay listens."""
    workers: fields.Workers = 1
    """Processes that share the work, up to 64; `auto`: one per core. See [More than one
    core](deployment.md#more-than-one-core)."""
    upstreams: Annotated[tuple[Upstream, ...], BeforeValidator(_upstreams)] = Field(default_factory=_default_upstreams)
    """Where requests go; the first one is the default."""
    routes: Annotated[tuple[Route, ...], fields.Items] = ()
    """Paths that lead to other upstreams; see [Several upstreams](networks.md#several-upstreams)."""
    chat: Annotated[ChatSettings, _OrEmpty] = Field(default_factory=ChatSettings)
    """Conversations that relay keeps for apps: see [`/chat`](chat.md)."""
    balance: Annotated[BalanceSettings, _OrEmpty] = Field(default_factory=BalanceSettings)
    """What is left on a key: see [`/pro/balance`](balance.md)."""
    keys: Annotated[KeysSettings, _OrEmpty] = Field(default_factory=KeysSettings)
    """Keys that relay hands out; see [Relay keys](keys.md)."""
    prices: Annotated[Mapping[str, Price], fields.PriceTable, AfterValidator(FrozenDict)] = Field(
        default_factory=FrozenDict
    )
    """What models cost, by their names; it goes before the list that relay brings."""
    store: Annotated[StoreSettings, _OrEmpty] = Field(default_factory=StoreSettings)
    """Where sessions, the ledger and hashes of keys are kept."""
    limits: Annotated[LimitsSettings, _OrEmpty] = Field(default_factory=LimitsSettings)
    """Bounds of every exchange."""
    inspect: Annotated[InspectSettings, _OrEmpty] = Field(default_factory=InspectSettings)
    """What a person sees in mitmweb."""
    replay: Annotated[ReplaySettings, _OrEmpty] = Field(default_factory=ReplaySettings)
    """`./run.sh replay`: see [Fixtures](fixtures.md)."""
    page: Annotated[PageSettings, _OrEmpty] = Field(default_factory=PageSettings)
    """The page at `/`, for people."""
    metrics: Annotated[MetricsSettings, _OrEmpty] = Field(default_factory=MetricsSettings)
    """Numbers for Prometheus; see [Observing](observing.md)."""
    telemetry: Annotated[TelemetrySettings, _OrEmpty] = Field(default_factory=TelemetrySettings)
    """Spans for OpenTelemetry; see [Traces](observing.md#traces)."""
    log: Annotated[Literal["text", "json"], BeforeValidator(fields.log_format)] = "text"
    """What relay prints: `text` for people, `json` for programs, [one line an exchange](observing.md#logs)."""
    engine: Annotated[EngineSettings, _OrEmpty] = Field(default_factory=EngineSettings)
    """What relay changes of mitmproxy for speed alone."""

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
        "metrics.listen": (before.metrics.listen, after.metrics.listen),
        "log": (before.log, after.log),
    }
    return [key for key, (old, new) in pairs.items() if old != new]


STORE_FIXED = (
    "store.kind, store.url and store.prefix are read at the start only, where a Redis is one of both: restart relay"
)


def is_fixed(before: StoreSettings, after: StoreSettings) -> bool:
    """Whether what has changed of a store is read at the start only."""
    if "redis" not in (before.kind, after.kind):
        return False
    return (before.kind, before.url, before.prefix) != (after.kind, after.url, after.prefix)


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


_KEYS = re.compile(r"keys\.list\[\d+\]\.key|upstreams\[\d+\]\.keys\[\d+\]|metrics\.token")
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


_LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)(?:#[^)]*)?\)")
"""To a page below docs/."""


def settings_schema() -> dict[str, Any]:
    """The JSON Schema of relay.yaml, for editors: they show what is said of a key as it is, so links are told as
    files."""
    described: dict[str, Any] = _told_plainly(Settings.model_json_schema())
    return described


def _told_plainly(part: Any) -> Any:
    if isinstance(part, list):
        return [_told_plainly(each) for each in part]
    if not isinstance(part, dict):
        return part
    told = {name: _told_plainly(each) for name, each in part.items()}
    if isinstance(said := told.get("description"), str):
        told["description"] = _LINK.sub(r"\1 (docs/\2)", " ".join(said.split()))
    return told


if __name__ == "__main__":
    if sys.argv[1:] != ["--schema"]:
        raise SystemExit("python -m addons.config.settings --schema prints the JSON Schema of relay.yaml")
    print(json.dumps(settings_schema(), indent=2, ensure_ascii=False))
