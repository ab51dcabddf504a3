"""What is said of a proxy that fails."""

import errno

import pytest
from python_socks import ProxyError

from addons.core.failures import Failure, classify
from addons.engine.pool import proxies
from addons.engine.pool.places import Place

PLACE = Place("api.test", 443, True, way=("http", ("proxy.test", 3128)))
FAILED = (proxies.SOCKS_FAILED, proxies.CONNECT_FAILED)


@pytest.mark.parametrize("failed", FAILED)
@pytest.mark.parametrize(
    "error", [ConnectionRefusedError(111, "Connect call failed"), ConnectionResetError(104, "reset"), ProxyError("no")]
)
def test_it_is_the_proxy_that_has_failed(failed: str, error: Exception) -> None:
    with pytest.raises(OSError, match=r"proxy\.test:3128") as caught, proxies.named(failed, PLACE):
        raise error
    assert classify(str(caught.value)) is Failure.PROXY


@pytest.mark.parametrize("failed", FAILED)
def test_that_no_descriptor_is_left_is_not_its_fault(failed: str) -> None:
    with pytest.raises(OSError, match="Too many") as caught, proxies.named(failed, PLACE):
        raise OSError(errno.EMFILE, "Too many open files")
    assert classify(str(caught.value)) is Failure.EXHAUSTED
