"""GraphiQL, the editor for GraphQL in a browser: only in development, from files of this package, so that it works without a network.

`gateway/graphiql/vendor` holds npm's builds of graphiql 3.9.0, react and react-dom 18.3.1, and graphql-ws 5.16.2 (all MIT, each with its
licence in LICENSES). A later major version of GraphiQL contains an editor of 10 MB and its workers.
"""

from importlib import resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(str(resources.files("gateway"))) / "graphiql"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src data:; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""The page loads nothing from other sites. Its editor needs inline styles."""


def is_wanted(request: Request) -> bool:
    """Returns whether a browser opens the address as a page."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return False
    return not any(name in request.query_params for name in ("query", "documentId", "extensions"))


def page() -> Response:
    """Returns the page."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers={"content-security-policy": CONTENT_SECURITY_POLICY})


def files() -> Mount:
    """Returns the route of the files that the page loads."""
    return Mount("/graphiql", StaticFiles(directory=FOLDER))
