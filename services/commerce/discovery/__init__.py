"""Promise search: which goods of a kind reach a consumer here, by when, and from which store."""
