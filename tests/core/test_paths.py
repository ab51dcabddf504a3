import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.paths import (
    OPENAI,
    Target,
    climbs,
    is_official,
    is_plain,
    is_sendable,
    readings,
    resolve,
    session_in,
)

ROUTES = ("/deepseek", "/deepseek/eu", "/ds")

raw_rest = st.text(st.sampled_from("abv1/.%2Fef-_~;:@!$&'()*+,=?"), max_size=20)


@pytest.mark.parametrize(
    ("raw", "route", "path", "query"),
    [
        ("/v1/models", None, "/v1/models", ""),
        ("//v1/models", None, "/v1/models", ""),
        ("/////v1/models", None, "/v1/models", ""),
        ("/v1/v1/dashboard/billing/usage?a=b", None, "/v1/dashboard/billing/usage", "?a=b"),
        ("/v1/v1/v1/models", None, "/v1/models", ""),
        ("/v1//v1/models", None, "/v1/models", ""),
        ("/v1//models", None, "/v1/models", ""),
        ("/v1///v1//models//x", None, "/v1/models//x", ""),
        ("/v1//", None, "/v1/", ""),
        ("/v1/v1", None, "/v1/v1", ""),
        ("/v1/v1beta", None, "/v1/v1beta", ""),
        ("/chat/completions?a=b", None, "/v1/chat/completions", "?a=b"),
        ("//completions", None, "/v1/completions", ""),
        ("/models/a%2Fb", None, "/v1/models/a%2Fb", ""),
        ("/modelsx", None, "/modelsx", ""),
        ("/Models", None, "/Models", ""),
        ("/chat", None, "/chat", ""),
        ("/chat/x", None, "/chat/x", ""),
        ("/deepseek/chat/completions", "/deepseek", "/v1/chat/completions", ""),
        ("/deepseek//chat/completions", "/deepseek", "/v1/chat/completions", ""),
        ("/deepseek/user/balance", "/deepseek", "/user/balance", ""),
        ("/deepseek/beta/completions", "/deepseek", "/beta/completions", ""),
        ("/v1/models//x", None, "/v1/models//x", ""),
        ("/v1/files/a%2Fb%20c?x=%2F&y=+", None, "/v1/files/a%2Fb%20c", "?x=%2F&y=+"),
        ("/v1/models?", None, "/v1/models", "?"),
        ("/v1/models?a?b", None, "/v1/models", "?a?b"),
        ("/chat?next=//v1/v1/x", None, "/chat", "?next=//v1/v1/x"),
        ("/deepseek", "/deepseek", "/", ""),
        ("/deepseek/", "/deepseek", "/", ""),
        ("/deepseek?q", "/deepseek", "/", "?q"),
        ("/deepseek/v1/models", "/deepseek", "/v1/models", ""),
        ("//deepseek//v1/v1/models?a=%2F", "/deepseek", "/v1/models", "?a=%2F"),
        ("/deepseek/eu/v1/models", "/deepseek/eu", "/v1/models", ""),
        ("/deepseek/euro", "/deepseek", "/euro", ""),
        ("/deepseeker/v1", None, "/deepseeker/v1", ""),
        ("/Deepseek/v1", None, "/Deepseek/v1", ""),
        ("/v1/deepseek/x", None, "/v1/deepseek/x", ""),
        ("", None, "", ""),
        ("*", None, "*", ""),
    ],
    ids=lambda value: repr(value),
)
def test_a_target_is_taken_apart(raw: str, route: str | None, path: str, query: str) -> None:
    assert resolve(raw, ROUTES) == Target(route, path, query)
    assert resolve(raw, dict.fromkeys(ROUTES)) == Target(route, path, query)


@given(st.sampled_from(["", "/v1", "/v1/v1", "/deepseek", "/deepseek/eu/v1"]), st.integers(1, 4), raw_rest)
def test_the_rest_stays_byte_for_byte(start: str, slashes: int, rest: str) -> None:
    raw = start + "/" * slashes + rest
    target = resolve(raw, ROUTES)
    whole = target.path.removeprefix("/v1").lstrip("/") + target.query
    assert raw.endswith(whole)
    # Nothing but slashes, versions and a route is ever taken away, and only at the start.
    taken = raw[: len(raw) - len(whole)]
    assert taken.replace("/v1", "").replace(target.route or "/", "").strip("/") == ""
    assert target.query == (raw[raw.index("?") :] if "?" in raw else "")


CHATS = ("/chat", "/pro/chat/completions")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/chat/", "/chat"),
        ("/chat//", "/chat"),
        ("//chat", "/chat"),
        ("/pro/balance/", "/pro/balance"),
        ("/pro/chat/completions/", "/pro/chat/completions"),
        ("/healthz/", "/healthz"),
        ("/chat/7/", "/chat/7"),
        ("/chat/models", "/chat/models"),
        ("/pro/chat/completions/7", "/pro/chat/completions/7"),
        ("/pro/chat/completions/completions", "/pro/chat/completions/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/chat/completions/", "/v1/chat/completions/"),
        ("/chat/completions/chatcmpl-1/messages", "/v1/chat/completions/chatcmpl-1/messages"),
        ("/chat/1/2", "/chat/1/2"),
        ("/chat/1/2/", "/chat/1/2/"),
        ("/", "/"),
        ("///", "/"),
    ],
)
@pytest.mark.parametrize("route", ["", "/deepseek"])
def test_relay_s_own_paths_are_mended_at_both_ends(raw: str, path: str, route: str) -> None:
    own = (*CHATS, "/pro/balance", "/healthz")
    assert resolve(route + raw + "?a=/b/", ROUTES, own, CHATS) == Target(route or None, path, "?a=/b/")


def test_a_path_that_relay_yaml_takes_is_not_openais() -> None:
    own = ("/models", "/conversations", "/chat/completions")
    folders = ("/conversations", "/chat/completions")
    for path in ("/models", "/conversations", "/conversations/7", "/chat/completions", "/chat/completions/7"):
        assert resolve(path, (), own, folders).path == path
    assert resolve("/models/7", (), own, folders).path == "/v1/models/7"
    assert resolve("/files", ("/files",)).route == "/files"


@pytest.mark.parametrize("first", sorted(OPENAI))
def test_openais_own_segments_need_no_version(first: str) -> None:
    for path in (f"/{first}", f"/{first}/", f"/{first}/x/../y"):
        assert resolve(path, ()).path == "/v1" + path
    assert resolve(f"/v1/{first}", ()).path == f"/v1/{first}"
    assert not is_official(resolve(f"/{first}/../../admin", ()).path)


@pytest.mark.parametrize(
    ("path", "session"),
    [("/chat/7", "7"), ("/chat/a%2Fb", "a%2Fb"), ("/chat/", None), ("/chat", None), ("/chat/completions", None)],
)
def test_a_session_lies_below_a_path_of_chat(path: str, session: str | None) -> None:
    assert session_in(path, CHATS) == session


@given(raw_rest)
def test_mending_twice_changes_nothing_in_what_is_sent_well(rest: str) -> None:
    once = resolve("/v1/models/" + rest, ())
    assert once == resolve(once.path + once.query, ())
    assert once.path + once.query == "/v1/models/" + rest


@given(st.lists(st.sampled_from(["/a", "/a/b", "/a/b/c", "/ab", "/b"]), unique=True), st.text("ab/", max_size=9))
def test_the_longest_route_wins(routes: list[str], rest: str) -> None:
    path = "/" + rest.lstrip("/")
    target = resolve(path, tuple(routes))
    matching = {route for route in routes if (path + "/").startswith(route + "/")}
    assert target.route == max(matching, key=len, default=None)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/", "/v1", "/dashboard/billing/usage", "/v1/dashboard/billing/x"])
def test_the_official_paths(path: str) -> None:
    assert is_official(path)


@pytest.mark.parametrize(
    "path",
    ["", "/", "*", "/v2/models", "/v1beta/x", "/V1/models", "/dashboard/x", "/dashboard/billing", "/admin", "/x/v1/y"],
    ids=repr,
)
def test_everything_else_is_not_official(path: str) -> None:
    assert not is_official(path)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/..",
        "/v1/../admin",
        "/v1/./models",
        "/v1/.",
        "/v1/x/../../admin",
        "/v1/%2e%2e/admin",
        "/v1/%2E./admin",
        "/v1/.%2e",
        "/v1/%2e",
        "/v1/..#/admin",
        "/v1/..#",
        "/v1/..%23/admin",
        "/v1/..%3f/admin",
        "/v1/..%00/admin",
        "/v1/..%00.json",
        "/v1/..%0a/admin",
        "/v1/..%09/admin",
        "/v1/.%09./admin",
        "/v1/%0d../admin",
        "/v1/..%20/admin",
        "/v1/..%7f/admin",
        "/v1/..;x=1/admin",
        "/v1/..%3Bx/admin",
        "/v1/..\\admin",
        "/v1\\..\\admin",
        "/v1/..%5cadmin",
        "/v1/..%2Fadmin",
        "/v1/%c0%ae%c0%ae/admin",
        "/v1/..%c0%afadmin",
        "/v1/%u002e%U002e/admin",
        "/v1/\udcc0\udcae./admin",
        "/v1/%f0%80%80%ae%F0%80%80%AE/admin",
        "/v1/..%f0%80%80%afadmin",
        "/v1/%ef%bc%8e./admin",
        "/v1/..%EF%BC%8Fadmin",
        "/v1/．．/admin",
        "/v1/..／admin",
        "/v1/%e2%80%a5/admin",
    ],
)
def test_a_dot_segment_climbs_out(path: str) -> None:
    assert climbs(path)
    assert not is_official(path)


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models/gpt-3.5", "/v1/a..b", "/v1/...", "/v1/.env", "/v1/x.", "/v1/%2e%2e%2e", "/v1/..a", "/v1/.a;b/c"),
        *(
            "/v1/%252e%252e/x",
            "/v1/models/ft:gpt-4o:acme::7p4l.",
            "/v1/files/报告.pdf",
            "/v1/files/第一章．终",
            "/v1/files/a%20.b",
            "/v1/..%41",
        ),
    ],
)
def test_a_dot_in_a_name_stays(path: str) -> None:
    assert is_official(path)


@pytest.mark.parametrize("byte", [*range(0x21), 0x7F, ord("#")])
def test_blanks_control_bytes_and_the_mark_of_a_fragment_can_not_be_sent(byte: int) -> None:
    for target in (b"/v1/..%c/admin", b"/v1/a?b=%c", b"%c/v1/a", b"/v1/a%c"):
        assert is_sendable(target % byte) is (byte == ord("#") and b"?" in target)


def test_all_other_bytes_can() -> None:
    assert is_sendable(bytes(each for each in range(0x100) if each > 0x20 and each not in b"\x7f#"))
    assert is_sendable(b"/v1/a?x=1#y") and not is_sendable(b"/v1/a#?x")


@pytest.mark.parametrize(
    "piece", ["/.", "/%20", "%20", "/%09.", ".%00", "\\", "/v1/", "//", ";", "/..a", "%25", "a", "%3b/"]
)
def test_judging_a_path_is_linear_in_it(piece: str) -> None:
    # A rescan from every separator would take minutes for the longest head that is let in.
    began = time.process_time()
    resolve("/v1/" + piece * (1 << 16) + "x", ROUTES)
    climbs("/v1/" + piece * (1 << 16) + "x")
    readings("/v1/" + piece * (1 << 16) + "x")
    is_plain("/v1/" + piece * (1 << 16) + "x")
    assert time.process_time() - began < 2


@given(st.lists(st.sampled_from(["a", ".", "..", "%2e", "%2E%2e", ".%2e", "...", "v1", ""]), max_size=6))
def test_what_is_served_never_leaves_its_folder(segments: list[str]) -> None:
    path = "/v1/" + "/".join(segments)
    if is_official(path):
        decoded = path.replace("%2e", ".").replace("%2E", ".").split("/")
        assert not {".", ".."} & set(decoded)


PLAIN = [
    "/v1/chat/completions",
    "/v1/responses/",
    "/openai/deployments/gpt-4o/chat/completions",
    "/v1/engines/o1%2Dpro/x",
]
ODD = [
    *("/v1/chat/completions%20", "/v1/chat/completions;x=1", "/v1/chat;x=1/completions", "/v1/chat/completions%3Bx"),
    *(
        "/v1/chat/completions%23/moderations",
        "/v1/chat/completions%3f",
        "/v1/chat//completions",
        "/v1/chat/completions//",
    ),
    *("/v1/chat%2Fcompletions", "/v1/chat\\completions", "/v1/chat%5ccompletions", "/v1/chat/%0acompletions"),
    *("/v1/chat/completions%00/x", "/v1/chat/completions%2523x", "/v1/chat%252fcompletions", "/v1/ch%00at/completions"),
    *("/v1/chat%c0%afcompletions", "/v1/chat/completions%0d%0a", "/v1/chat%ef%bc%8fcompletions"),
    *("/v1/chat/completions;/moderations", "/v1/chat/;a/completions"),
]


@pytest.mark.parametrize("path", PLAIN)
def test_a_plain_path_has_one_reading(path: str) -> None:
    assert is_plain(path)
    assert readings(path) == (path.replace("%2D", "-").rstrip("/"),)


@pytest.mark.parametrize("path", ODD)
def test_an_odd_path_is_read_as_some_server_would(path: str) -> None:
    assert not is_plain(path)
    assert "/v1/chat/completions" in readings(path)


@given(st.text(st.sampled_from("/ab.;#?%2035FfBb\\ -_"), max_size=12))
def test_what_is_plain_has_one_reading(text: str) -> None:
    path = "/v1/" + text
    if is_plain(path):
        assert len(readings(path)) == 1
