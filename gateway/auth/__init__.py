"""Authentication: from an `Authorization` header to the session of a request.

oidc            identity providers and the keys (JWKS) that they publish
bearer_tokens   verification of bearer tokens (JWT) by these keys
sessions        from a verified token to a principal with its grants, which the services resolve
"""
