"""Which installation a suite is: an id that stands beside its databases and goes with them, so that new databases are a new one."""

import secrets
from typing import Any

from pymongo import MongoClient, ReturnDocument
from pymongo.errors import PyMongoError

from services.local.mongod import SELECT_MILLISECONDS, MongodError


def installation_of(uri: str, database_prefix: str) -> str:
    """The id of the installation whose databases stand there, made on first use; `MongodError` when it can be neither read nor made."""
    try:
        with MongoClient[Any](uri, serverSelectionTimeoutMS=SELECT_MILLISECONDS) as client:
            found: Any = client[f"{database_prefix}_local"]["installation"].find_one_and_update(
                {"_id": "installation"},
                {"$setOnInsert": {"id": secrets.token_hex(16)}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
    except PyMongoError as error:
        raise MongodError(f"the database {database_prefix}_local cannot be used: {str(error).split(', full error')[0]}") from None
    return str(found["id"])
