"""Localization: error messages in the language of the client, from tables beside the codes of errors and refusals."""
