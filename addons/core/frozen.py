"""A dict that stays as it is, for settings that several exchanges share.

`MappingProxyType` would do for reading, but `json.dumps` refuses it, and what is frozen here goes into request bodies.
"""

from collections.abc import Mapping
from typing import Any, Never


class FrozenDict(dict[str, Any]):
    """A dict without writing. Equal to a dict of the same content, and hashable if its values are."""

    def _refuse(self, *args: object, **kwargs: object) -> Never:
        raise TypeError("settings cannot be changed; make a dict of them first")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __copy__(self) -> "FrozenDict":
        return self

    def __deepcopy__(self, memo: object) -> "FrozenDict":
        return self

    def __reduce__(self) -> tuple[type["FrozenDict"], tuple[dict[str, Any]]]:
        return FrozenDict, (dict(self),)


def freeze(value: Any) -> Any:
    """The same value with every mapping in it a FrozenDict and every list a tuple."""
    if isinstance(value, Mapping):
        return FrozenDict({key: freeze(each) for key, each in value.items()})
    if isinstance(value, list | tuple):
        return tuple(freeze(each) for each in value)
    return value
