"""GraphiQL, to try the graph with in development: from this package's own files, so that it works without a network.

`graphiql/vendor` holds the builds that npm gives out: graphiql 3.9.0, react and react-dom 18.3.1, graphql-ws 5.16.2 (all MIT, each with its
licence in LICENSES). A later major version of GraphiQL brings a whole editor of 10 MB and its workers.
"""

from importlib import resources
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(str(resources.files("gateway"))) / "graphiql"
POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src data:; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Nothing from elsewhere. Its editor sets styles in place."""


def wanted(request: Request) -> bool:
    """Whether somebody opens the address in a browser."""
    if request.method != "GET" or "text/html" not in request.headers.get("accept", ""):
        return False
    return not any(name in request.query_params for name in ("query", "documentId", "extensions"))


def page() -> Response:
    """The page."""
    return FileResponse(FOLDER / "index.html", media_type="text/html", headers={"content-security-policy": POLICY})


def files() -> Mount:
    """What the page loads."""
    return Mount("/graphiql", StaticFiles(directory=FOLDER))
