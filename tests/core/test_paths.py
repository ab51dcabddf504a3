import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.paths import Target, climbs, is_official, resolve

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
    whole = target.path + target.query
    assert raw.endswith(whole) or (target.path == "/" and raw.endswith(target.query))
    # Nothing but slashes, versions and a route is ever taken away, and only at the start.
    taken = raw[: len(raw) - len(whole)]
    assert taken.replace("/v1", "").replace(target.route or "/", "").strip("/") == ""
    assert target.query == (raw[raw.index("?") :] if "?" in raw else "")


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
    ],
)
def test_a_dot_segment_climbs_out(path: str) -> None:
    assert climbs(path)
    assert not is_official(path)


@pytest.mark.parametrize("path", ["/v1/models/gpt-3.5", "/v1/a..b", "/v1/...", "/v1/.env", "/v1/x.", "/v1/%2e%2e%2e"])
def test_a_dot_in_a_name_stays(path: str) -> None:
    assert is_official(path)


@given(st.lists(st.sampled_from(["a", ".", "..", "%2e", "%2E%2e", ".%2e", "...", "v1", ""]), max_size=6))
def test_what_is_served_never_leaves_its_folder(segments: list[str]) -> None:
    path = "/v1/" + "/".join(segments)
    if is_official(path):
        decoded = path.replace("%2e", ".").replace("%2E", ".").split("/")
        assert not {".", ".."} & set(decoded)
