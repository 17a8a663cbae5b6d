"""A page to try the graph with, in development: one file, nothing from elsewhere, so that it works without a network."""

import re
from base64 import b64encode
from hashlib import sha256
from importlib import resources

from starlette.requests import Request
from starlette.responses import Response

HTML = (resources.files("gateway") / "explorer.html").read_bytes()


def _hash(tag: bytes) -> str:
    """Of what stands between `<tag>` and `</tag>`: the only script, or style, that a browser may run."""
    found = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), HTML, re.DOTALL)
    assert found is not None
    return b64encode(sha256(found[1]).digest()).decode()


POLICY = (
    f"default-src 'none'; connect-src 'self'; script-src 'sha256-{_hash(b'script')}'; style-src 'sha256-{_hash(b'style')}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def wanted(request: Request) -> bool:
    """Whether somebody opens the address in a browser."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return False
    return not any(name in request.query_params for name in ("query", "documentId", "extensions"))


def page() -> Response:
    """The page."""
    return Response(HTML, media_type="text/html", headers={"content-security-policy": POLICY})
