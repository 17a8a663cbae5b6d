"""Notices that outside systems send of their own accord (incoming webhooks), signed with a secret that they share with us.

The gateway hands a notice over as it came; whoever it is for verifies it here, by Standard Webhooks (https://www.standardwebhooks.com):
HMAC-SHA256 over its id, its time and its raw body.
"""

from collections.abc import Mapping, Sequence

import msgspec
from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from services.kit.errors import Denied
from services.kit.settings import Settings, SettingsError


class WebhookVerifier:
    """Who may send notices: the secrets of each, all of which are believed while one replaces another."""

    def __init__(self, secrets: Mapping[str, Sequence[str]]) -> None:
        self.secrets = {sender: [Webhook(secret) for secret in each] for sender, each in secrets.items()}

    @classmethod
    def of(cls, settings: Settings) -> "WebhookVerifier":
        """Those of the settings; SettingsError when they are malformed."""
        try:
            return cls(msgspec.json.decode(settings.webhook_secrets, type=dict[str, list[str]]))
        except (msgspec.DecodeError, EmptyWebhookSecretError, ValueError):
            raise SettingsError('QUANYU_WEBHOOK_SECRETS takes JSON of sender -> secrets: {"sandbox": ["whsec_…"]}') from None

    def verify(self, sender: str, *, id: str, timestamp: str, signature: str, body: bytes) -> None:
        """`Denied` unless the sender signed just this, less than five minutes ago."""
        headers = {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature}
        for secret in self.secrets.get(sender, ()):
            try:
                return secret.verify(body, headers, json_parse=False)  # type: ignore[no-any-return]
            except Exception:  # whatever is wrong with it: text that is no base64, no number, no UTF-8
                continue
        raise Denied("SIGNATURE_INVALID", "no sender of ours signed this, or not within the last five minutes")
