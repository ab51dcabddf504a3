"""Addresses of upstreams and proxies, and what HTTPS_PROXY and NO_PROXY make of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.urls import Address, Proxy, parse_proxy, parse_upstream, proxy_from_environ


@pytest.mark.parametrize(
    ("url", "address", "authority"),
    [
        ("https://api.openai.com", Address("https", "api.openai.com", 443, ""), "api.openai.com"),
        ("https://api.openai.com/", Address("https", "api.openai.com", 443, ""), "api.openai.com"),
        ("https://api.openai.com/v1", Address("https", "api.openai.com", 443, ""), "api.openai.com"),
        ("https://api.openai.com/v1/", Address("https", "api.openai.com", 443, ""), "api.openai.com"),
        ("https://x.com/proxy/v1/", Address("https", "x.com", 443, "/proxy"), "x.com"),
        ("https://x.com/v1/acct/openai", Address("https", "x.com", 443, "/v1/acct/openai", True), "x.com"),
        ("https://x.com/api/v11", Address("https", "x.com", 443, "/api/v11", True), "x.com"),
        ("http://h:8081", Address("http", "h", 8081, ""), "h:8081"),
        ("http://h:80", Address("http", "h", 80, ""), "h"),
        ("http://h:443", Address("http", "h", 443, ""), "h:443"),
        ("HTTPS://API.Example.COM", Address("https", "api.example.com", 443, ""), "api.example.com"),
        ("http://[::1]", Address("http", "::1", 80, ""), "[::1]"),
        ("https://[2001:db8::1]:8443/v1", Address("https", "2001:db8::1", 8443, ""), "[2001:db8::1]:8443"),
        ("http://my_service:1234", Address("http", "my_service", 1234, ""), "my_service:1234"),
    ],
)
def test_an_upstream_is_taken_apart(url: str, address: Address, authority: str) -> None:
    assert parse_upstream(url) == address
    assert parse_upstream(url).authority == authority


@pytest.mark.parametrize(
    ("url", "completions", "billing"),
    [
        ("https://h", "/v1/chat/completions", "/dashboard/billing/usage"),
        ("https://h/v1/", "/v1/chat/completions", "/dashboard/billing/usage"),
        ("https://h/proxy", "/proxy/v1/chat/completions", "/proxy/dashboard/billing/usage"),
        ("https://h/openai/v1", "/openai/v1/chat/completions", "/openai/dashboard/billing/usage"),
        ("https://h/compatible-mode/v1", "/compatible-mode/v1/chat/completions", None),
        ("https://h/client/v4/accounts/a/ai/v1", "/client/v4/accounts/a/ai/v1/chat/completions", None),
        ("https://h/api/paas/v4", "/api/paas/v4/chat/completions", "/api/paas/v4/dashboard/billing/usage"),
        ("https://h/api/v3/", "/api/v3/chat/completions", None),
        ("https://h/v2", "/v2/chat/completions", None),
        ("https://h/v1beta/openai", "/v1beta/openai/chat/completions", None),
        (
            "https://h/v1beta1/projects/p/endpoints/openapi",
            "/v1beta1/projects/p/endpoints/openapi/chat/completions",
            None,
        ),
        ("https://h/v1/account/gateway/openai", "/v1/account/gateway/openai/chat/completions", None),
        ("https://h/V1", "/V1/chat/completions", None),
        ("https://h/api/v1.5-preview2", "/api/v1.5-preview2/chat/completions", None),
        *((f"https://h/{name}", f"/{name}/v1/chat/completions", None) for name in ("vllm", "v", "va1", "v1x", "xv1")),
    ],
)
def test_a_version_of_its_own_stands_in_the_place_of_v1(url: str, completions: str, billing: str | None) -> None:
    upstream = parse_upstream(url)
    assert upstream.path("/v1/chat/completions") == completions
    assert upstream.path("/v1x/y") == f"{upstream.prefix}/v1x/y"
    if billing is not None:
        assert upstream.path("/dashboard/billing/usage") == billing


@pytest.mark.parametrize(
    "url",
    [
        *["", "openai", "api.openai.com", "//api.openai.com", "ftp://h", "https://", "https:///v1", "https://h:0"],
        *[
            "https://h:70000",
            "https://h:x",
            "https://h:",
            "https://[::1",
            "https://[nope]",
            "https://h?a=b",
            "https://h?",
        ],
        *[
            "https://h#x",
            "https://u:p@h",
            "https://@h",
            "https://h/a b",
            "https://h\n.com",
            "https://h/\t",
            "https://h\\x",
        ],
        *["https://例子.com", "https://h//v1", "https://h/../x", "https://a..b", "https://1.2.3", "https://1.2.3.256"],
        *["https://h/v1/chat/completions", "https://-h", "https://h/<x>", f"https://{'a' * 64}.com"],
    ],
)
def test_what_is_no_upstream_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^expected "):
        parse_upstream(url)


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://127.0.0.1:7890", Proxy("http", "127.0.0.1", 7890)),
        ("http://127.0.0.1:7890/", Proxy("http", "127.0.0.1", 7890)),
        ("http://proxy.corp", Proxy("http", "proxy.corp", 80)),
        ("http://[::1]:3128", Proxy("http", "::1", 3128)),
        ("http://user:pass@h:1", Proxy("http", "h", 1, "user:pass")),
        ("http://user@h:1", Proxy("http", "h", 1, "user:")),
        ("http://us%40er:p%3Ass@h:1", Proxy("http", "h", 1, "us@er:p:ss")),
        ("http://user:p@ss@h:1", Proxy("http", "h", 1, "user:p@ss")),
        ("socks5://127.0.0.1:1080", Proxy("socks5", "127.0.0.1", 1080)),
        ("SOCKS5H://h", Proxy("socks5h", "h", 1080)),
        ("socks5h://us%40er:p%3Ass@h:1", Proxy("socks5h", "h", 1, "us@er:p:ss")),
    ],
)
def test_a_proxy_is_taken_apart(url: str, proxy: Proxy) -> None:
    assert parse_proxy(url) == proxy


@pytest.mark.parametrize("url", ["SOCKS4://h:1", "socks4a://h:1", "socks://h", "socks"])
def test_other_socks_is_refused_with_a_word_on_what_to_use(url: str) -> None:
    with pytest.raises(ValueError, match=r"speaks SOCKS5.*socks5h://"):
        parse_proxy(url)


@pytest.mark.parametrize("auth", ["user", "user:", ":pass", f"{'u' * 256}:p", f"u:{'长' * 86}"])
def test_socks_takes_no_user_without_a_password(auth: str) -> None:
    with pytest.raises(ValueError, match=r"1 to 255 bytes|expected a proxy"):
        parse_proxy(f"socks5h://{auth}@h:1")


@pytest.mark.parametrize(
    "url", ["", "h:1", "https://h:1", "ftp://h:1", "http://h:1/path", "http://h:1?x", "http://", "http://:1"]
)
def test_what_is_no_http_proxy_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected a proxy|use http://"):
        parse_proxy(url)


HTTPS = parse_upstream("https://api.openai.com")
HTTP = parse_upstream("http://10.1.2.3:8081")


@pytest.mark.parametrize(
    ("environ", "upstream", "expected"),
    [
        pytest.param({}, HTTPS, None, id="nothing set"),
        pytest.param({"HTTPS_PROXY": "http://p:1"}, HTTPS, Proxy("http", "p", 1), id="https by HTTPS_PROXY"),
        pytest.param(
            {"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, HTTPS, Proxy("http", "p", 1), id="small first"
        ),
        pytest.param({"HTTP_PROXY": "http://p:1"}, HTTPS, None, id="https is not asked by HTTP_PROXY"),
        pytest.param({"HTTP_PROXY": "http://p:1"}, HTTP, Proxy("http", "p", 1), id="http by HTTP_PROXY"),
        pytest.param({"ALL_PROXY": "socks5h://p:1"}, HTTP, Proxy("socks5h", "p", 1), id="all by ALL_PROXY"),
        pytest.param(
            {"all_proxy": "socks5h://p", "HTTPS_PROXY": "q:2"}, HTTPS, Proxy("http", "q", 2), id="its own scheme first"
        ),
        pytest.param({"HTTPS_PROXY": " p:1 "}, HTTPS, Proxy("http", "p", 1), id="without a scheme"),
        pytest.param(
            {"https_proxy": "", "HTTPS_PROXY": "http://p:1"}, HTTPS, Proxy("http", "p", 1), id="empty is unset"
        ),
    ],
)
def test_the_environment_names_a_proxy(environ: dict[str, str], upstream: Address, expected: Proxy | None) -> None:
    assert proxy_from_environ(upstream, environ) == expected


@pytest.mark.parametrize(
    ("no_proxy", "upstream", "exempt"),
    [
        ("*", HTTPS, True),
        ("openai.com", HTTPS, True),
        (".openai.com", HTTPS, True),
        ("*.openai.com", HTTPS, True),
        ("API.OPENAI.COM", HTTPS, True),
        ("x, api.openai.com:443", HTTPS, True),
        ("api.openai.com:8443", HTTPS, False),
        ("penai.com", HTTPS, False),
        ("localhost,127.0.0.1", HTTPS, False),
        ("10.1.2.3", HTTP, True),
        ("10.0.0.0/8", HTTP, True),
        ("10.1.2.3:8081", HTTP, True),
        ("192.168.0.0/16", HTTP, False),
        ("::1", parse_upstream("http://[::1]:1"), True),
        ("[::1]", parse_upstream("http://[::1]:1"), True),
        ("", HTTPS, False),
        (" , :, .,*.", HTTPS, False),
    ],
)
def test_no_proxy(no_proxy: str, upstream: Address, exempt: bool) -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://p:1", "NO_PROXY": no_proxy}
    assert (proxy_from_environ(upstream, environ) is None) is exempt


def test_a_bad_proxy_in_the_environment_is_named_without_its_value() -> None:
    with pytest.raises(ValueError, match=r"^HTTPS_PROXY of the environment") as caught:
        proxy_from_environ(HTTPS, {"HTTPS_PROXY": "socks4://user:hunter2@h:1"})
    assert "hunter2" not in str(caught.value)


@given(st.text() | st.builds("http://{}".format, st.text()), st.text())
def test_any_text_is_taken_apart_or_refused_in_words(text: str, no_proxy: str) -> None:
    for parse in (parse_upstream, parse_proxy):
        try:
            assert parse(text).port
        except ValueError as error:
            assert "http" in str(error) or "expected" in str(error)
    proxy_from_environ(HTTPS, {"HTTPS_PROXY": "http://p:1", "NO_PROXY": no_proxy})
