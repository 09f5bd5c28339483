import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsjobs.jetstream.client.errors import without_secrets


@pytest.mark.parametrize(
    ("servers", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("localhost", "nats://localhost"),
        ("tls://u:pw@a.example:1, nats://t0ken@b", "tls://a.example:1,nats://b"),
        ("nats://u:pw@[::1]:4222", "nats://[::1]:4222"),
        ("nats://u:p/w@h:1", "nats://h:1"),
        ("nats://u:p@w#x?y@h:1", "nats://h:1"),
        ("nats://u:p://w@h:1", "nats://h:1"),
        ("nats://u:pw@h:1/path", "nats://h:1"),
        ("nats://[::1", "nats://…"),
        ("u:secret", "nats://…"),
        ("", "nats://…"),
    ],
)
def test_urls_are_shown_without_what_is_secret(servers: str, shown: str) -> None:
    assert without_secrets(servers) == shown


@given(st.text(st.characters(exclude_characters=",", exclude_categories=["Cs"])))
def test_no_password_is_ever_shown(password: str) -> None:
    secret = f"se{password}cret"
    assert without_secrets(f"nats://user:{secret}@host:4222") == "nats://host:4222"
    assert without_secrets(f"{secret}@host") == "nats://host"
