"""Any JSON at all, and how it is fuzzed with."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
texts = st.text(st.characters(exclude_categories=()), max_size=20)  # with lone surrogates and NUL
numbers = st.integers() | st.floats() | st.integers(0, 700).map(lambda power: 10**power)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
