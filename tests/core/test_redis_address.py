import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.core.redis_address import RedisAddress, parse_redis

GOOD = {
    "redis://127.0.0.1": RedisAddress((("127.0.0.1", 6379),)),
    "redis://localhost:7000/3": RedisAddress((("localhost", 7000),), database=3),
    "redis://[::1]:6380": RedisAddress((("::1", 6380),)),
    "redis://:p%40ss@host": RedisAddress((("host", 6379),), password="p@ss"),
    "rediss://user:word@redis.example.com/": RedisAddress(
        (("redis.example.com", 6379),), tls=True, user="user", password="word"
    ),
    "redis+sentinel://a,b:1,[::1]/mymaster/2": RedisAddress(
        (("a", 26379), ("b", 1), ("::1", 26379)), database=2, master="mymaster"
    ),
    "rediss+sentinel://u:p@a/m": RedisAddress((("a", 26379),), tls=True, user="u", password="p", master="m"),
}
BAD = (
    *("", "redis", "redis:/x", "redis://", "http://host", "redis://host:", "redis://host:0", "redis://host:65536"),
    *(
        "redis://host/x",
        "redis://host/1/2",
        "redis://a,b",
        "redis+sentinel://a",
        "redis+sentinel://a/",
        "redis://@host",
    ),
    *("redis://host?db=1", "redis://host#1", "redis://ho st", "redis://host\n", "redis://[::1", "redis://[::1]x"),
    *("redis://1.2.3.456", "redis://host/99999", "redis+sentinel://a,/m", "REDIS://host"),
)


@pytest.mark.parametrize("text", GOOD)
def test_the_parts_of_an_address(text: str) -> None:
    assert parse_redis(text) == GOOD[text]


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"^expected the address of a Redis"):
        parse_redis(text)


@given(st.text(max_size=60))
def test_anything_is_read_or_refused(text: str) -> None:
    for tried in (text, f"redis://{text}", f"redis+sentinel://{text}/m"):
        try:
            address = parse_redis(tried)
        except ValueError as error:
            assert str(error).startswith("expected the address of a Redis")
        else:
            assert address.hosts and all(0 < port < 65536 for _, port in address.hosts)


def test_a_password_is_not_shown() -> None:
    address = parse_redis("redis+sentinel://user:MARKx@a,b/mymaster/1")
    assert "MARKx" not in f"{address} {address!r} {address.shown}" and address.shown.startswith("master mymaster of a:")
