"""What the proxies in front of Pipit say of a visitor, and how much of it is believed."""

import pytest

from app.front.security import address_seen, scheme_seen


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("10.0.0.1:4711", "10.0.0.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ('", 192.0.2.1', "192.0.2.1"),  # an open quote in front of it
        ("192.0.2.1, ", "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_an_address_is_the_one_that_the_proxy_saw_without_its_port(forwarded: str, address: str) -> None:
    assert address_seen(forwarded, 1, "127.0.0.1") == address


def test_a_scheme_that_is_none_is_not_believed() -> None:
    assert scheme_seen("javascript", 1, "http") == "http"
    assert scheme_seen("HTTPS", 1, "http") == "https"
