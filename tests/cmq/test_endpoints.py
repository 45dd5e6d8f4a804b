"""Where an HTTP subscriber may be: which URLs are taken, and which are refused."""

import pytest

from gateway.cmq.endpoints import Protocol, check_endpoint
from gateway.errors import InvalidParameterValue
from tests.support.cmq import EVERYWHERE

LABEL = "a" * 63


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://example.com",
        "HTTPS://Example.com/",
        "http://127.0.0.1:8080/cgi",
        "http://[::1]/",
        "http://example.com/?q=1#part",
        "http://example.com/" + "a" * 1_005,
        "http://localhost:8080",
        "http://my_service/",
        "http://xn--exmple-cua.com/",
        "http://example.com./",
        f"http://{LABEL}.{LABEL}.{LABEL}.{'a' * 61}/",
        "http://3com.example/",
        "http://[2001:db8::1]:8443/",
    ],
)
def test_a_url_that_can_be_pushed_to_is_taken_as_it_is(endpoint: str) -> None:
    assert check_endpoint(Protocol.HTTP, endpoint, reach=EVERYWHERE) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "example.com/hook",
        "ftp://example.com/",
        "file:///etc/passwd",
        "http:/example.com",
        "http://",
        "http:///path",
        "http://:80/",
        "http://user@example.com/",
        "http://user:word@example.com/",
        "http://example.com:port/",
        "http://example.com:65536/",
        "http://example.com:0/",
        "http://[::1/",
        "http://exa mple.com/",
        " http://example.com/",
        "http://example.com/\n",
        "http://example.com/\x00",
        "http://example.com/\u00a0",
        "http://example.com\\@internal/",
        "http://exämple.com/",
        "http://example.com/" + "a" * 1_006,
        "http://h..x/",
        "http://.example.com/",
        "http://example.com../",
        f"http://{LABEL}a/",
        f"http://{LABEL}.{LABEL}.{LABEL}.{'a' * 62}/",
        "http://h%00/",
        "http://-a.example/",
        "http://a-.example/",
        "http://a+b.example/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://256.0.0.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3.4./",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[v1.x]/",
    ],
)
def test_a_url_that_cannot_be_pushed_to_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidParameterValue):
        check_endpoint(Protocol.HTTP, endpoint, reach=EVERYWHERE)
