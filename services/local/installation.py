"""Installation id: a random id stored beside the databases, so that new databases are a new installation."""

import secrets
from typing import Any

from pymongo import MongoClient, ReturnDocument
from pymongo.errors import PyMongoError

from services.local.mongod import SELECT_MILLISECONDS, MongodError


def read_installation_id(uri: str, database_prefix: str) -> str:
    """Returns the id of the installation at `uri`, created on first use; raises `MongodError` if the database cannot be used."""
    try:
        with MongoClient[Any](uri, serverSelectionTimeoutMS=SELECT_MILLISECONDS) as client:
            found: Any = client[f"{database_prefix}_local"]["installation"].find_one_and_update(
                {"_id": "installation"},
                {"$setOnInsert": {"id": secrets.token_hex(16)}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
    except PyMongoError as error:
        raise MongodError(f"The database {database_prefix}_local cannot be used: {str(error).split(', full error')[0]}") from None
    return str(found["id"])
