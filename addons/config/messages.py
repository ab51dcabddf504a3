"""What does not fit in a tree read from relay.yaml, put into plain words."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ValidationError

from addons.config.fields import Expected, inner_types
from addons.config.loader import FromEnviron
from addons.config.mistakes import Location, Problem, dotted, quoted, shown
from addons.core.redis_address import EXPECTED as REDIS_EXPECTED

OFFICIAL = ("/v1", "/dashboard")
OWN = ("/healthz", "/readyz", "/metrics")
_SECRET = re.compile(r"key|token|secret|pass|auth|pwd|cred|cookie|bearer", re.IGNORECASE)


def misfits(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """pydantic's findings as problems."""
    return [
        Problem(dotted(where), given, _expected(model, where, kind, reason))
        for where, kind, given, reason in _findings(model, error)
    ]


def _findings(model: type[BaseModel], error: ValidationError) -> Iterator[tuple[Location, str, str, str]]:
    """Place, kind, the value as it may be shown, and what its reader says."""
    for each in error.errors(include_url=False):
        where, kind, given = each["loc"], each["type"], each["input"]
        context = each.get("ctx", {})
        if kind == "missing":
            given = None
        value = _stray(model, where, given) if kind == "extra_forbidden" else show(given, where)
        yield where, kind, value, str(context.get("error", context.get("expected", "")))


def _stray(model: type[BaseModel], where: Location, given: Any) -> str:
    """What stands under a key that there is not. Its text may be any secret, unless the key is a slip for another."""
    meant = _meant(model, where)
    secret = _SECRET.search(str(where[-1])) is not None and isinstance(given, str | int | float)
    if secret or (isinstance(given, str) and not meant):
        return "'***'"
    return show(given, (meant[0],) if meant else where)


def _expected(model: type[BaseModel], where: Location, kind: str, reason: str) -> str:
    if kind == "value_error":
        return reason
    if kind == "missing":
        return "expected a value; this key has no default"
    if kind == "extra_forbidden":
        return _no_such_key(model, where)
    if kind in ("model_type", "model_attributes_type"):
        keys = list(_model_at(model, where).model_fields)
        return f"expected keys and values: {', '.join(keys)}"
    if kind == "tuple_type":
        return "expected a list: in brackets, or each item behind a dash"
    if (expected := _said_of(model, where)) is not None:
        return expected
    if kind == "bool_type":
        return "expected true or false"
    if kind == "literal_error":
        return f"expected {reason.replace("'", '')}"
    if kind in ("int_type", "int_from_float", "greater_than_equal", "less_than_equal"):
        return _whole_number(model, where)
    return "expected another kind of value"


def _said_of(model: type[BaseModel], where: Location) -> str | None:
    """What the field at a place says that it expects, or its items where the place is one of these."""
    names = [at for at, part in enumerate(where) if isinstance(part, str)]
    last = names[-1] if names else 0
    field = _model_at(model, where[:last]).model_fields.get(str(where[last])) if where else None
    if field is None:
        return None
    beside = field.metadata if last == len(where) - 1 else []
    return next((each.text for each in (*beside, *inner_types(field.annotation)) if isinstance(each, Expected)), None)


def _whole_number(model: type[BaseModel], where: Location) -> str:
    field = _model_at(model, where[:-1]).model_fields[str(where[-1])]
    bounds = {name: getattr(each, name) for each in field.metadata for name in ("ge", "le") if hasattr(each, name)}
    if "le" in bounds:
        return f"expected a whole number from {bounds['ge']} to {bounds['le']}"
    return f"expected a whole number of {bounds['ge']} or more"


def _no_such_key(model: type[BaseModel], where: Location) -> str:
    elsewhere = _elsewhere(model, where)
    if near := _near(model, where):
        return f"there is no such key; did you mean {near[0]}?"
    if elsewhere:
        return f"there is no such key here; did you mean {' or '.join(map(dotted, elsewhere))}?"
    return f"there is no such key; expected one of {', '.join(_model_at(model, where[:-1]).model_fields)}"


def _near(model: type[BaseModel], where: Location) -> list[str]:
    """The key beside it that looks most like one that there is not, if any does."""
    known = list(_model_at(model, where[:-1]).model_fields)
    cutoff = 0.8 if _elsewhere(model, where) else 0.6
    return difflib.get_close_matches(str(where[-1])[:40].lower(), known, n=1, cutoff=cutoff)


def _elsewhere(model: type[BaseModel], where: Location) -> list[Location]:
    return [path for path in _all_keys(model, ()) if path[-1] == str(where[-1])]


def _meant(model: type[BaseModel], where: Location) -> list[str]:
    return _near(model, where) or [str(path[-1]) for path in _elsewhere(model, where)]


def _model_at(model: type[BaseModel], where: Location) -> type[BaseModel]:
    for key in where:
        field = model.model_fields.get(key) if isinstance(key, str) else None
        model = next(_models(field.annotation), model) if field else model
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    for each in inner_types(annotation):
        if isinstance(each, type) and issubclass(each, BaseModel):
            yield each


def _all_keys(model: type[BaseModel], where: Location) -> Iterator[Location]:
    """The path of every key below a model. Items of lists count as their list's keys."""
    for key, field in model.model_fields.items():
        yield (*where, key)
        for inner in _models(field.annotation):
            yield from _all_keys(inner, (*where, key))


def show(value: Any, where: Location = ()) -> str:
    """A value of the file in a few characters, its secrets hidden.

    What the environment supplied is shown as the file has it.
    """
    if value is None:
        return "nothing"
    if isinstance(value, FromEnviron):
        return shown(where, value.written)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return quoted(str(value)).strip("'")
    if isinstance(value, dict):
        return "keys and values" if value else "{}"
    if isinstance(value, list | tuple):
        return "a list" if value else "[]"
    return shown(where, str(value))


def crossings(tree: dict[str, Any], defaults: dict[str, Any]) -> list[Problem]:
    """What is wrong between places: names given twice, routes to nowhere, paths that are taken.

    The tree need not fit the models: what has another form than expected has its problem already, and is passed over.
    `defaults` is the tree of settings that nobody wrote.
    """
    upstreams = defaults["upstreams"] if tree.get("upstreams") is None else tree["upstreams"]
    routes = tree.get("routes")
    exact = [place for section in ("chat", "balance") for place in _paths_of(section, tree, defaults)]
    prefixes = list(_texts(routes, ("routes",), "path"))
    return [
        *_twice(_texts(upstreams, ("upstreams",), "name"), "a name"),
        *_nowhere(_texts(routes, ("routes",), "upstream"), [name for _, name in _texts(upstreams, (), "name")]),
        *_wrong_keys(tree, upstreams),
        *_wrong_fallbacks(upstreams),
        *_wrong_store(tree),
        *_reserved([*exact, *prefixes]),
        *_twice(exact, "a path"),
        *_twice(prefixes, "a path"),
        *_covering(prefixes, exact),
        *_nobody_trusted(tree),
    ]


_Place = tuple[Location, str]


def _texts(items: Any, where: Location, key: str) -> Iterator[_Place]:
    """The texts that stand under a key in a list of mappings."""
    for index, item in enumerate(items if isinstance(items, list | tuple) else ()):
        if isinstance(item, dict) and isinstance(item.get(key), str):
            yield (*where, index, key), item[key]


def _paths_of(section: str, tree: dict[str, Any], defaults: dict[str, Any]) -> Iterator[_Place]:
    written = tree.get(section)
    paths = defaults[section]["paths"]
    if isinstance(written, dict):
        paths = written.get("paths", paths)
    for index, path in enumerate(paths if isinstance(paths, list | tuple) else ()):
        if isinstance(path, str):
            yield (section, "paths", index), path


def _twice(places: Iterable[_Place], what: str) -> Iterator[Problem]:
    first: dict[str, Location] = {}
    for where, text in places:
        if text in first:
            yield Problem(dotted(where), show(text), f"expected {what} of its own; {dotted(first[text])} is the same")
        else:
            first[text] = where


def _nobody_trusted(tree: dict[str, Any]) -> Iterator[Problem]:
    listen = tree.get("listen")
    named = listen.get("client_address") if isinstance(listen, dict) else None
    if isinstance(named, dict) and named.get("source") == "header" and not named.get("trusted"):
        yield Problem(
            "listen.client_address.trusted",
            show(named.get("trusted")),
            "expected the proxies that set the header, e.g. [10.0.0.0/8]: anybody can send one",
        )


def _wrong_store(tree: dict[str, Any]) -> Iterator[Problem]:
    store = tree.get("store")
    if isinstance(store, dict) and store.get("kind") == "redis" and not store.get("url"):
        yield Problem("store.url", "", f"{REDIS_EXPECTED}; url: ${{REDIS_URL}} takes it from the environment")


def _nowhere(places: Iterable[_Place], names: list[str]) -> Iterator[Problem]:
    if not names or "" in names:
        return  # the names themselves are at fault
    known = ", ".join(show(name) for name in list(dict.fromkeys(names))[:10])
    for where, text in places:
        if text not in names:
            near = difflib.get_close_matches(text[:40], names, n=1)
            advice = f"did you mean {show(near[0])}?" if near else f"expected one of {known}"
            yield Problem(dotted(where), show(text), f"there is no upstream of this name; {advice}")


def _wrong_keys(tree: dict[str, Any], upstreams: Any) -> Iterator[Problem]:
    """What is wrong with relay keys: a name or key given twice, an upstream that is none, or has no key of its own."""
    section = tree.get("keys")
    listed = section.get("list") if isinstance(section, dict) else None
    where: Location = ("keys", "list")
    yield from _twice(_texts(listed, where, "name"), "a name")
    for problem in _twice(_texts(listed, where, "key"), "a key"):
        yield Problem(problem.path, "", problem.expected)
    places = list(_texts(upstreams, ("upstreams",), "name"))
    yield from _nowhere(_texts(listed, where, "upstream"), [name for _, name in places])
    if not isinstance(upstreams, list | tuple) or not all(isinstance(each, dict) for each in upstreams):
        return
    with_keys = {each.get("name") for each in upstreams if each.get("keys")}
    for index, key in enumerate(listed if isinstance(listed, list) else ()):
        named = key.get("upstream") if isinstance(key, dict) else None
        upstream = named or (upstreams[0].get("name") if upstreams else None)
        if isinstance(upstream, str) and upstream not in with_keys and any(upstream == name for _, name in places):
            path = dotted((*where, index, *(("upstream",) if named else ())))
            yield Problem(path, "", f"expected an upstream with keys: set upstreams[].keys of {show(upstream)}")


def _wrong_fallbacks(upstreams: Any) -> Iterator[Problem]:
    """What is wrong with `fallback`: a name that nobody has, itself, one without keys of relay's own, a circle."""
    listed = [each for each in upstreams if isinstance(each, dict)] if isinstance(upstreams, list | tuple) else []
    names = [name for each in listed if isinstance(name := each.get("name"), str)]
    with_keys = {each.get("name") for each in listed if each.get("keys")}
    leads: dict[str, list[str]] = {}
    for index, upstream in enumerate(upstreams if isinstance(upstreams, list | tuple) else ()):
        own = upstream.get("name") if isinstance(upstream, dict) else None
        named = upstream.get("fallback") if isinstance(upstream, dict) else None
        where: Location = ("upstreams", index, "fallback")
        places = [
            ((*where, at), text)
            for at, text in enumerate(named if isinstance(named, list | tuple) else ())
            if isinstance(text, str)
        ]
        yield from _nowhere(places, names)
        yield from _twice(places, "a name")
        for place, text in places:
            if text == own:
                yield Problem(dotted(place), show(text), "expected another upstream than the one it is a fallback of")
            elif text in names and text not in with_keys:
                expected = f"expected an upstream with keys: set upstreams[].keys of {show(text)}"
                yield Problem(dotted(place), "", expected)
            elif isinstance(own, str) and text in names:
                leads.setdefault(own, []).append(text)
                if own in _reached(text, leads):
                    yield Problem(dotted(place), show(text), f"expected no circle; {show(text)} leads back to this one")
        if places and isinstance(own, str) and own not in with_keys:
            yield Problem(dotted(where), "", "expected keys beside it: only requests with relay's own key fall back")


def _reached(name: str, leads: Mapping[str, Iterable[str]]) -> set[str]:
    """The upstreams that one leads to, itself among them."""
    found, todo = set(), [name]
    while todo:
        each = todo.pop()
        if each not in found:
            found.add(each)
            todo += leads.get(each, ())
    return found


def _reserved(places: Iterable[_Place]) -> Iterator[Problem]:
    for where, text in places:
        taken = [path for path in (*OFFICIAL, *OWN) if _under(text, path)]
        if taken:
            whose = "OpenAI's API" if taken[0] in OFFICIAL else "relay itself"
            yield Problem(dotted(where), show(text), f"expected another path; {taken[0]} belongs to {whose}")


def _covering(prefixes: list[_Place], exact: list[_Place]) -> Iterator[Problem]:
    for where, prefix in prefixes:
        covered = [place for place, path in exact if _under(path, prefix)]
        if covered:
            yield Problem(dotted(where), show(prefix), f"expected another path; this one covers {dotted(covered[0])}")


def _under(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")
