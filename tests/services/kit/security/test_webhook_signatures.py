"""Tests of webhook signatures: only an unchanged and recent webhook of a known sender is valid."""

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


def sign(body: str = BODY, *, id: str = "msg_1", secret: str = SECRET, age: timedelta = timedelta()) -> dict[str, str]:
    at = datetime.now(UTC) - age
    return {"id": id, "timestamp": str(int(at.timestamp())), "signature": Webhook(secret).sign(id, at, body)}


@pytest.mark.parametrize("secret", [SECRET, NEXT], ids=["current secret", "next secret"])
def test_webhook_signed_with_any_secret_is_valid(secret: str) -> None:
    SENDERS.verify("sandbox", body=BODY.encode(), **sign(secret=secret))


# Signed when the test runs, not when it is collected, since an age is relative to the time of the signature.
REFUSED: dict[str, tuple[str, str, Callable[[], dict[str, str]]]] = {
    "another sender": ("other", BODY, sign),
    "another body": ("sandbox", BODY + " ", sign),
    "another id": ("sandbox", BODY, lambda: sign() | {"id": "msg_2"}),
    "no signature": ("sandbox", BODY, lambda: sign() | {"signature": ""}),
    "another time": ("sandbox", BODY, lambda: (at := sign()) | {"timestamp": str(int(at["timestamp"]) + 1)}),
    "too old": ("sandbox", BODY, lambda: sign(age=timedelta(minutes=6))),
    "from the future": ("sandbox", BODY, lambda: sign(age=timedelta(minutes=-6))),
    "another secret": ("sandbox", BODY, lambda: sign(secret=f"whsec_{base64.b64encode(bytes(24)).decode()}")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_webhook_is_denied(case: str) -> None:
    sender, body, make_signature = REFUSED[case]
    with pytest.raises(Denied, match="not valid"):
        SENDERS.verify(sender, body=body.encode(), **make_signature())


@bounds(deadline=None)
@given(st.binary(max_size=50), st.text(max_size=20), st.text(max_size=20), st.text(max_size=60) | st.just("v1") | st.just("v1,=,v1"))
def test_random_input_is_denied(body: bytes, id: str, timestamp: str, signature: str) -> None:
    with pytest.raises(Denied):
        SENDERS.verify("sandbox", id=id, timestamp=timestamp, signature=signature, body=body)


@pytest.mark.parametrize("setting", ["", "[]", '{"sandbox": "whsec_x"}', '{"sandbox": [""]}', '{"sandbox": ["whsec_!"]}'])
def test_malformed_secrets_are_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match="QUANYU_WEBHOOK_SECRETS"):
        WebhookVerifier.from_settings(Settings(webhook_secrets=setting))
