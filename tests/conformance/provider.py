"""A real OIDC provider (npm `oidc-provider`) in its own process, controlled by the test; see provider.mjs."""

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
    """A running provider. `issuer` is its `iss` claim and its address."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.issuer = str(self.told("start")["issuer"])

    def told(self, command: str) -> dict[str, Any]:
        """Sends `start`, `stop`, `rotate`, `replace` or `count`, and returns the answer. A provider that does not answer is killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        killer = Timer(SECONDS_MAX, self.process.kill)
        killer.start()
        try:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]
        finally:
            killer.cancel()

    def fetched(self) -> int:
        """Returns the number of requests for the keys since its last start."""
        return int(self.told("count")["fetched"])

    async def token(self, client: str, *, audience: str = "quanyu", algorithm: str = "ES256") -> str:
        """Returns an access token of a machine client. The subject is the id of the client."""
        form = {"grant_type": "client_credentials", "scope": "graph", "resource": f"urn:{audience}:{algorithm}"}
        async with httpx.AsyncClient(base_url=self.issuer, trust_env=False) as http:
            answer = await http.post("/token", auth=(client, f"{client}-secret"), data=form)
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    async def signed_in(self, login: str, *, audience: str = "quanyu", algorithm: str = "ES256") -> str:
        """Returns an access token of a person: authorization code with PKCE, with each step of a browser."""
        verifier = secrets.token_urlsafe(32)
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).decode().rstrip("=")
        params = {"client_id": "mini-program", "response_type": "code", "redirect_uri": REDIRECT, "scope": "openid graph"}
        params |= {"resource": f"urn:{audience}:{algorithm}", "code_challenge": challenge, "code_challenge_method": "S256"}
        async with httpx.AsyncClient(base_url=self.issuer, trust_env=False) as browser:
            answer = await browser.get("/auth", params=params)
            for prompt in ("login", "consent"):
                answer = await browser.post(answer.headers["location"], data={"prompt": prompt, "login": login, "password": "any"})
                answer = await browser.get(answer.headers["location"])
            form = {"grant_type": "authorization_code", "client_id": "mini-program", "redirect_uri": REDIRECT, "code_verifier": verifier}
            code = httpx.URL(answer.headers["location"]).params["code"]
            answer = await browser.post("/token", data=form | {"code": code})
        answer.raise_for_status()
        return str(answer.json()["access_token"])

    async def published(self) -> list[dict[str, Any]]:
        """Returns the public keys."""
        async with httpx.AsyncClient(base_url=self.issuer, trust_env=False) as http:
            return (await http.get("/jwks")).json()["keys"]  # type: ignore[no-any-return]


@contextmanager
def providing(node: str, port: int) -> Iterator[Provider]:
    """Runs a provider that listens on a local port during the block."""
    command = [node, "provider.mjs", str(port)]
    process = subprocess.Popen(command, cwd=HERE, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield Provider(process)
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS_MAX)
