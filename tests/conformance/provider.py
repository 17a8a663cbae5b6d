"""A real OIDC provider (npm `oidc-provider`), as its own process, that a test steers; see provider.mjs."""

import json
import secrets
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from threading import Timer
from typing import Any

import httpx

from tests.conformance.node import HERE

SECONDS_MAX = 20.0
REDIRECT = "http://127.0.0.1:1/signed-in"


class Provider:
    """A running provider. `issuer` is its `iss` and address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.issuer = str(self.told("start")["issuer"])

    def told(self, order: str) -> dict[str, Any]:
        """What it answers to `start`, `stop`, `rotate`, `replace` or `count`. A provider that does not answer is ended."""
        assert self.process.stdin is not None and self.process.stdout is not None
        ending = Timer(SECONDS_MAX, self.process.kill)
        ending.start()
        try:
            self.process.stdin.write(f"{order}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]
        finally:
            ending.cancel()

    def fetched(self) -> int:
        """How often keys were fetched since it started listening."""
        return int(self.told("count")["fetched"])

    async def token(self, client: str, *, audience: str = "quanyu", algorithm: str = "ES256") -> str:
        """An access token of a machine client, whose id is its subject."""
        asked = {"grant_type": "client_credentials", "scope": "graph", "resource": f"urn:{audience}:{algorithm}"}
        async with httpx.AsyncClient(base_url=self.issuer, trust_env=False) as http:
            answer = await http.post("/token", auth=(client, f"{client}-secret"), data=asked)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    async def signed_in(self, login: str, *, audience: str = "quanyu", algorithm: str = "ES256") -> str:
        """An access token of a person who signs in: authorization code with PKCE, each step as their browser takes it."""
        verifier = secrets.token_urlsafe(32)
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
        asked = {"client_id": "mini-program", "response_type": "code", "redirect_uri": REDIRECT, "scope": "openid graph"}
        asked |= {"resource": f"urn:{audience}:{algorithm}", "code_challenge": challenge, "code_challenge_method": "S256"}
        async with httpx.AsyncClient(base_url=self.issuer, trust_env=False) as browser:
            answer = await browser.get("/auth", params=asked)
            for prompt in ("login", "consent"):
                answer = await browser.post(answer.headers["location"], data={"prompt": prompt, "login": login, "password": "any"})
                answer = await browser.get(answer.headers["location"])
            given = {"grant_type": "authorization_code", "client_id": "mini-program", "redirect_uri": REDIRECT, "code_verifier": verifier}
            code = httpx.URL(answer.headers["location"]).params["code"]
            answer = await browser.post("/token", data=given | {"code": code})
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    async def published(self) -> list[dict[str, Any]]:
        """The keys as anybody sees them."""
        async with httpx.AsyncClient(base_url=self.issuer, trust_env=False) as http:
            return (await http.get("/jwks")).json()["keys"]  # type: ignore[no-any-return]


@contextmanager
def providing(node: str, port: int) -> Iterator[Provider]:
    """A provider that listens at `port` of this machine, until the block ends."""
    command = [node, "provider.mjs", str(port)]
    process = subprocess.Popen(command, cwd=HERE, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield Provider(process)
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS_MAX)
