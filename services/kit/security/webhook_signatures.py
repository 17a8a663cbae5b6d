"""Verification of incoming webhooks by Standard Webhooks (https://www.standardwebhooks.com).

The signature is an HMAC-SHA256 over the id, the time and the raw body, with a secret that sender and receiver share. The gateway passes
the raw body on; the service that owns the webhook verifies it here.
"""

from collections.abc import Mapping, Sequence

import msgspec
from standardwebhooks import Webhook
from standardwebhooks.webhooks import EmptyWebhookSecretError

from services.kit.errors import Denied
from services.kit.settings import Settings, SettingsError


class WebhookVerifier:
    """Verifies webhooks of known senders. A sender may have several secrets, so that they can rotate."""

    def __init__(self, secrets: Mapping[str, Sequence[str]]) -> None:
        self.secrets = {sender: [Webhook(secret) for secret in of_sender] for sender, of_sender in secrets.items()}

    @classmethod
    def from_settings(cls, settings: Settings) -> "WebhookVerifier":
        """Reads the secrets of the settings; SettingsError if they are malformed."""
        try:
            return cls(msgspec.json.decode(settings.webhook_secrets, type=dict[str, list[str]]))
        except (msgspec.DecodeError, EmptyWebhookSecretError, ValueError):
            raise SettingsError(
                'QUANYU_WEBHOOK_SECRETS is not usable. Give JSON of sender -> secrets, like {"sandbox": ["whsec_…"]}.'
            ) from None

    def verify(self, sender: str, *, id: str, timestamp: str, signature: str, body: bytes) -> None:
        """Raises `Denied` unless the sender signed this id and body less than five minutes ago."""
        headers = {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signature}
        for secret in self.secrets.get(sender, ()):
            try:
                return secret.verify(body, headers, json_parse=False)  # type: ignore[no-any-return]
            except Exception:  # the library raises many types: for text that is not base64, not a number or not UTF-8
                continue
        raise Denied("SIGNATURE_INVALID", "The signature is not valid or older than five minutes. Sign the raw body with a current secret.")
