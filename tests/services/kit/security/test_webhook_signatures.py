"""Incoming webhooks: only what a known sender signed, as it was signed, in time."""

import base64
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from standardwebhooks import Webhook

from services.kit.errors import Denied
from services.kit.security.webhook_signatures import WebhookVerifier
from services.kit.settings import Settings, SettingsError

SECRET, NEXT = (f"whsec_{base64.b64encode(secrets.token_bytes(24)).decode()}" for _ in range(2))
SENDERS = WebhookVerifier({"sandbox": [NEXT, SECRET]})
BODY = '{"type": "payment.approved", "data": {"名": "值"}}'


def signed(body: str = BODY, *, id: str = "msg_1", secret: str = SECRET, age: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(UTC) - age
    return {"id": id, "timestamp": str(int(at.timestamp())), "signature": Webhook(secret).sign(id, at, body)}


@pytest.mark.parametrize("secret", [SECRET, NEXT], ids=["its own", "its next"])
def test_what_a_sender_signed_is_believed_with_each_of_its_secrets(secret: str) -> None:
    SENDERS.verify("sandbox", body=BODY.encode(), **signed(secret=secret))


# Signed when the test runs, not when it is collected: an age is counted from now.
REFUSED: dict[str, tuple[str, str, Callable[[], dict[str, str]]]] = {
    "another sender": ("other", BODY, signed),
    "another body": ("sandbox", BODY + " ", signed),
    "another id": ("sandbox", BODY, lambda: signed() | {"id": "msg_2"}),
    "no signature": ("sandbox", BODY, lambda: signed() | {"signature": ""}),
    "another time": ("sandbox", BODY, lambda: (at := signed()) | {"timestamp": str(int(at["timestamp"]) + 1)}),
    "too old": ("sandbox", BODY, lambda: signed(age=timedelta(minutes=6))),
    "from the future": ("sandbox", BODY, lambda: signed(age=timedelta(minutes=-6))),
    "another secret": ("sandbox", BODY, lambda: signed(secret=f"whsec_{base64.b64encode(bytes(24)).decode()}")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_whatever_else_is_refused(case: str) -> None:
    sender, body, sign = REFUSED[case]
    with pytest.raises(Denied, match="no sender"):
        SENDERS.verify(sender, body=body.encode(), **sign())


@bounds(deadline=None)
@given(st.binary(max_size=50), st.text(max_size=20), st.text(max_size=20), st.text(max_size=60) | st.just("v1") | st.just("v1,=,v1"))
def test_noise_is_refused_in_the_same_way(body: bytes, id: str, timestamp: str, signature: str) -> None:
    with pytest.raises(Denied):
        SENDERS.verify("sandbox", id=id, timestamp=timestamp, signature=signature, body=body)


@pytest.mark.parametrize("setting", ["", "[]", '{"sandbox": "whsec_x"}', '{"sandbox": [""]}', '{"sandbox": ["whsec_!"]}'])
def test_malformed_secrets_stop_the_start(setting: str) -> None:
    with pytest.raises(SettingsError, match="QUANYU_WEBHOOK_SECRETS"):
        WebhookVerifier.from_settings(Settings(webhook_secrets=setting))
