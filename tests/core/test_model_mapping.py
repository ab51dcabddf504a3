"""Names of models that an upstream knows by others: in a body one value changes, elsewhere a mapped name is refused."""

import json
import time
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from addons.core import model_mapping
from addons.core.model_mapping import (
    Mapped,
    MappedInPlace,
    NotUtf8,
    Twice,
    Unmapped,
    Unreadable,
    check_address,
    mapping,
)
from addons.core.slices import at_once

MODELS = {"gpt-4o": "deepseek-chat", "o3": "深度求索", 'qu"ote\\': "plain", "chain": "gpt-4o"}
JSON = "application/json"


def mapped(body: bytes | str, content_type: str = JSON) -> Mapped:
    given_ = body.encode() if isinstance(body, str) else body
    return at_once(mapping(given_, content_type, MODELS))


BODIES = {
    "plain": (b'{"model":"gpt-4o","n":1}', b'{"model":"deepseek-chat","n":1}'),
    "with blanks": (b' {\t"model" :\r\n "gpt-4o" , "n":1e0 }\n', b' {\t"model" :\r\n "deepseek-chat" , "n":1e0 }\n'),
    "at its end, behind other letters": (
        '{"messages":[{"content":"你\\u597d \\/ é"}],"model":"gpt-4o"}'.encode(),
        '{"messages":[{"content":"你\\u597d \\/ é"}],"model":"deepseek-chat"}'.encode(),
    ),
    "a name with escapes": (b'{"mod\\u0065l":"gpt-4\\u006f"}', b'{"mod\\u0065l":"deepseek-chat"}'),
    "a byte order mark": (b'\xef\xbb\xbf{"model":"gpt-4o"}', b'\xef\xbb\xbf{"model":"deepseek-chat"}'),
    "a mark, and other letters": (
        '\ufeff{"u":"é","model":"gpt-4o"}'.encode(),
        '\ufeff{"u":"é","model":"deepseek-chat"}'.encode(),
    ),
    "a name of other letters": (b'{"model":"o3"}', b'{"model":"\\u6df1\\u5ea6\\u6c42\\u7d22"}'),
    "once, and not again": (b'{"model":"chain"}', b'{"model":"gpt-4o"}'),
    "the same name further down": (
        b'{"metadata":{"model":"gpt-4o"},"model":"gpt-4o","x":"\\"model\\":\\"gpt-4o\\""}',
        b'{"metadata":{"model":"gpt-4o"},"model":"deepseek-chat","x":"\\"model\\":\\"gpt-4o\\""}',
    ),
    "a value that is no JSON elsewhere": (b'{"x":01,"model":"gpt-4o"}', b'{"x":01,"model":"deepseek-chat"}'),
}


@pytest.mark.parametrize(("body", "sent"), BODIES.values(), ids=BODIES)
def test_the_top_level_model_is_replaced_and_nothing_else(body: bytes, sent: bytes) -> None:
    found = mapped(body)
    assert found.body == sent
    assert found.asked in MODELS and found.sent == MODELS[found.asked]


UNCHANGED: dict[str, tuple[bytes, str]] = {
    "another model": (b'{"model":"gpt-4o-mini"}', JSON),
    "another case": (b'{"model":"GPT-4o"}', JSON),
    "no model": (b'{"input":"gpt-4o"}', JSON),
    "a model that is no text": (b'{"model":["gpt-4o"]}', JSON),
    "null": (b'{"model":null}', JSON),
    "a name of great length": (b'{"model":"' + b"gpt-4o" * 10_000 + b'"}', JSON),
    "an array": (b'[{"model":"gpt-4o"}]', JSON),
    "nothing": (b"", JSON),
    "an escape of half a letter": (b'{"model":"\\ud800"}', JSON),
    "sound": (b"RIFF\0\0\0\0WAVE", "audio/wav"),
    "sound that is called nothing": (b"RIFFxxxx\0\0", ""),
    "a form of another model": (b"model=gpt-4o-mini&input=gpt-4o", "application/x-www-form-urlencoded"),
    "a text": (b"model: gpt-4o", "text/plain"),
}


@pytest.mark.parametrize(("body", "content_type"), UNCHANGED.values(), ids=UNCHANGED)
def test_what_names_no_mapped_model_stays_the_very_same(body: bytes, content_type: str) -> None:
    found = mapped(body, content_type)
    assert found.body is body and found.asked is None and found.sent is None


def test_json_is_known_by_what_it_is_whatever_it_is_called() -> None:
    for name in ("", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8"):
        assert mapped('{"model":"gpt-4o"}', name).sent == "deepseek-chat"


def test_without_names_nothing_is_read() -> None:
    body = b'{"model":"a","model":"b"'
    assert at_once(mapping(body, JSON, {})).body is body


def a_form(**fields: str) -> bytes:
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    )
    return f"{parts}--x--\r\n".encode()


FORM = "multipart/form-data; boundary=x"
REFUSED: dict[str, tuple[bytes, str, type[Unmapped]]] = {
    "a field twice": (b'{"model":"gpt-4o","model":"gpt-4"}', JSON, Twice),
    "a field twice, one with escapes": (b'{"model":"gpt-4","mod\\u0065l":"gpt-4o"}', JSON, Twice),
    "another field twice": (b'{"n":1,"n":2,"model":"gpt-4o"}', JSON, Twice),
    "an object without its end": (b'{"model":"gpt-4o"', JSON, Unreadable),
    "two objects": (b'{"model":"gpt-4o"}{"model":"gpt-4o"}', JSON, Unreadable),
    "names without quotation marks": (b'{model:"gpt-4o"}', JSON, Unreadable),
    "an escape that is none": (b'{"model":"gpt\\-4o"}', JSON, Unreadable),
    "UTF-16": ('{"model":"gpt-4o"}'.encode("utf-16"), JSON, NotUtf8),
    "UTF-16 without a mark": ('{"model":"gpt-4o"}'.encode("utf-16-le"), JSON, NotUtf8),
    "UTF-16, the other way": ('{"model":"gpt-4o"}'.encode("utf-16-be"), JSON, NotUtf8),
    "UTF-32": ('{"model":"gpt-4o"}'.encode("utf-32"), JSON, NotUtf8),
    "UTF-16 that is called nothing": ('{"model":"gpt-4o"}'.encode("utf-16-be"), "", NotUtf8),
    "GBK, whose letters look like JSON": ('{"user":"乗","model":"gpt-4o"}'.encode("gbk"), JSON, NotUtf8),
    "Latin-1": ('{"user":"é","model":"gpt-4o"}'.encode("latin-1"), JSON, NotUtf8),
    "a form": (a_form(prompt="x", model="gpt-4o"), FORM, MappedInPlace),
    "a form's list": (a_form(**{"model[]": "gpt-4o"}), FORM, MappedInPlace),
    "a form that can't be read": (a_form(model="x")[:-10], FORM, Unreadable),
    "a form with a model twice": (a_form(model="x").replace(b"--x--", b"") + a_form(model="gpt-4o"), FORM, Twice),
    "an urlencoded form": (b"input=x&model=gpt%2D4o", "application/x-www-form-urlencoded", MappedInPlace),
    "a large urlencoded form": (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded", Unreadable),
    "an urlencoded form of many fields": (
        b"a=b&" * 9000 + b"model=o3",
        "application/x-www-form-urlencoded",
        MappedInPlace,
    ),
}


@pytest.mark.parametrize(("body", "content_type", "why"), REFUSED.values(), ids=REFUSED)
def test_what_can_t_be_mapped_is_refused(body: bytes, content_type: str, why: type[Unmapped]) -> None:
    with pytest.raises(why):
        mapped(body, content_type)


def test_a_form_of_another_model_passes() -> None:
    body = a_form(model="whisper-1", prompt="gpt-4o")
    assert mapped(body, FORM).body is body


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.just("model"), inner),
    max_leaves=20,
)
_NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(sorted(MODELS))


@given(
    st.dictionaries(st.text(max_size=10), _JSON, max_size=6),
    st.none() | _NAMES,
    st.dictionaries(_NAMES, _NAMES, max_size=4),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.booleans(),
)
@example({}, "a", {"a": "\ud800"}, None, True, False)
def test_the_result_is_the_original_with_another_model(
    value: dict[str, Any], model: str | None, models: dict[str, str], indent: int | None, ascii_: bool, mark: bool
) -> None:
    value.pop("model", None)
    if model is not None:
        value["model"] = model
    items = list(value.items())
    value = dict(items[::-1])  # the model is not always the last one
    body = json.dumps(value, indent=indent, ensure_ascii=ascii_).encode("utf-8", "replace")
    body = b"\xef\xbb\xbf" + body if mark else body
    expected = json.loads(body.decode("utf-8-sig"))
    found = at_once(mapping(body, JSON, models))
    named = expected.get("model")
    if named not in models:
        assert found.body is body
        return
    expected["model"] = models[named]
    assert json.loads(found.body.decode("utf-8-sig")) == expected
    assert (found.asked, found.sent) == (named, models[named])
    # Nothing but the value's bytes: what stands before and behind it is what stood there.
    written = json.dumps(models[named]).encode()
    at = next(
        at
        for at in range(len(found.body))
        if found.body.startswith(written, at)
        and body[:at] == found.body[:at]
        and body.endswith(found.body[at + len(written) :])
    )
    replaced = body[at : len(body) - len(found.body[at + len(written) :])]
    assert json.loads(replaced) == named


@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,\\model gpt-4o\n', max_size=60).map(str.encode))
def test_any_bytes_are_mapped_as_a_parser_reads_them_or_refused(body: bytes) -> None:
    try:
        found = mapped(body)
    except Unmapped:
        return
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return
    names_one = isinstance(value, dict) and isinstance(value.get("model"), str) and value["model"] in MODELS
    assert (found.sent is not None) == names_one


@given(st.text(alphabet='{}[]":,é你', max_size=60), st.integers(1, 7))
def test_slices_of_any_size_make_no_difference(text: str, size: int) -> None:
    body = json.dumps({"x": text, "model": "gpt-4o", "y": text}, ensure_ascii=False).encode()
    before = model_mapping._SLICE
    model_mapping._SLICE = size
    try:
        assert mapped(body).body == body.replace(b'"gpt-4o"', b'"deepseek-chat"')
    finally:
        model_mapping._SLICE = before


PATHS = {
    "a model": ("/v1/models/gpt-4o", ""),
    "a model, with a slash": ("/v1/models/gpt-4o/", ""),
    "an encoded one": ("/v1/models/gpt%2D4o", ""),
    "an action": ("/v1beta/models/gpt-4o:generateContent", ""),
    "a deployment": ("/openai/deployments/gpt-4o/chat/completions", ""),
    "an engine": ("/v1/engines/gpt-4o/completions", ""),
    "a path in capitals": ("/v1/Models/gpt-4o", ""),
    "a name with a slash": ("/v1/models/meta/llama/x", ""),
    "a query": ("/v1/realtime", "model=gpt-4o"),
    "an encoded query": ("/v1/realtime", "a=b&mod%65l=gpt%2d4o"),
    "a deployment in a query": ("/v1/realtime", "deployment=gpt-4o&api-version=1"),
    "one of several": ("/v1/realtime", "model=x&model=gpt-4o"),
}


@pytest.mark.parametrize(("path", "query"), PATHS.values(), ids=PATHS)
def test_a_mapped_name_in_an_address_is_refused(path: str, query: str) -> None:
    with pytest.raises(MappedInPlace) as caught:
        check_address(path, query, {**MODELS, "meta/llama": "x"})
    assert caught.value.place == ("query" if query else "path")


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/v1/models", ""),
        ("/v1/models/gpt-4o-mini", ""),
        ("/v1/models/x/gpt-4o", ""),
        ("/v1/gpt-4o", ""),
        ("/v1/chat/completions", "user=gpt-4o"),
        ("/v1/realtime", "model=gpt-4o-mini"),
        ("/v1/realtime", "model"),
    ],
)
def test_other_addresses_pass(path: str, query: str) -> None:
    check_address(path, query, MODELS)


@given(st.text(min_size=1, max_size=30).filter(lambda name: name.strip("/ ") == name and "?" not in name))
def test_any_name_is_found_in_a_path_that_encodes_it(name: str) -> None:
    with pytest.raises(MappedInPlace):
        check_address(f"/v1/models/{quote(name, safe='')}", "", {name: "x"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: mapping(b'{"model":"gpt-4o","x":"' + b"\\u4f60" * 5_000_000 + b'"}', JSON, MODELS),
        lambda: mapping(b'{"x":[' + b"[],{}," * 5_000_000 + b'0],"model":"gpt-4o"}', JSON, MODELS),
        lambda: mapping(b'{"x":"' + "你".encode() * 10_000_000 + b'","model":"gpt-4o"}', JSON, MODELS),
        lambda: mapping(b" " * 30_000_000, JSON, MODELS),
        lambda: mapping(b"{" + b" " * 30_000_000, JSON, MODELS),
        lambda: mapping(b"\x80" * 30_000_000, JSON, MODELS),
        lambda: mapping(b'{"model":"gpt-4o"}' + b"\x80" * 30_000_000, JSON, MODELS),
    ],
    ids=["one text", "many values", "other letters", "blanks", "blanks in an object", "no text", "no text behind"],
)
def test_no_slice_of_a_large_body_takes_long(make: Any) -> None:
    work, longest = make(), 0.0
    while True:
        before = time.process_time()
        try:
            next(work)
        except (StopIteration, Unmapped):
            break
        longest = max(longest, time.process_time() - before)
    assert longest < 0.25  # 5 to 10 ms, and this machine has other work


def test_no_address_takes_long() -> None:
    for path in ("/models/" * 8000, "/models/" + "a/" * 30_000, "/models/" + "%2F" * 20_000):
        before = time.process_time()
        check_address(path, "model=x&" * 8000, MODELS)
        assert time.process_time() - before < 0.25
