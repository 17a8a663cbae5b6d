"""Descriptions of the graph: the comments of the protos, word for word.

They come from `quanyu/descriptors.binpb`, which `protos/generate.py` writes beside the generated modules.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

# Where the children of a thing stand in a descriptor: (its kind, number of the field) -> (that field, kind of the children).
CHILDREN = {
    ("file", 4): ("message_type", "message"),
    ("file", 5): ("enum_type", "enum"),
    ("file", 6): ("service", "service"),
    ("message", 2): ("field", "field"),
    ("message", 3): ("nested_type", "message"),
    ("message", 4): ("enum_type", "enum"),
    ("enum", 2): ("value", "value"),
    ("service", 2): ("method", "method"),
}

PLAIN: Mapping[str, str] = {
    "acknowledged_at": "When the assignee saw it.",
    "active": "Whether it is in use.",
    "amount": "What it amounts to.",
    "assignee": "The member of staff it is asked of.",
    "at": "When it happened.",
    "binding": "Which guide looks after the consumer.",
    "bound_at": "Since when.",
    "bound_brand": "The brand for which the consumer is bound to that guide.",
    "brand": "The brand or retailer.",
    "brand_id": "Which brand or retailer.",
    "campaign": "The campaign.",
    "campaign_id": "Which campaign.",
    "cancelled_at": "When it was cancelled.",
    "category": "What kind of thing it is, in lower case, like `shirt`; may be empty.",
    "closed_at": "When it was closed.",
    "closes_minute": "Local minutes since midnight at which it closes every day; 1440 where it opens at 0 and never closes.",
    "consumer": "The consumer.",
    "consumer_id": "Which consumer.",
    "coupon": "The coupon.",
    "coupon_id": "Which coupon.",
    "coupons": "The coupons.",
    "created_at": "When it came to be.",
    "currency": "ISO 4217, like CNY.",
    "delivers": "Whether it can hand goods to a courier.",
    "discount": "What coupons take off.",
    "display_name": "How the consumer is called.",
    "district": "The district.",
    "district_id": "Which district.",
    "en": "In English.",
    "ended_grant_ids": "The grants that ended with it.",
    "evidence": "The kinds of identity in which both agree.",
    "first_at": "When the first event happened.",
    "franchised": "Whether its stores belong to franchisees.",
    "from_day": "The first day.",
    "grant_id": "Which grant.",
    "granted": "Whether it is allowed.",
    "held_at": "When the goods were put aside.",
    "hold": "The hold.",
    "hold_id": "Which hold.",
    "id": "Unique in the whole graph, for good.",
    "identity_id": "The identity.",
    "interaction_count": "How many interactions there were.",
    "interaction_id": "Which interaction.",
    "items": "How many pieces.",
    "kind": "Of which kind it is.",
    "last_at": "When the latest event happened.",
    "link_id": "The link.",
    "linked_at": "When they were linked.",
    "linked_consumer": "The consumer who is linked to the other.",
    "linked_consumer_id": "The consumer who is linked to the other.",
    "method": "How.",
    "month": "The month, like 2024-05.",
    "name": "What it is called.",
    "note": "A remark.",
    "offer": "The offer.",
    "offer_id": "Which offer.",
    "offline": "Taken offline.",
    "offline_minor": "Taken offline, in minor units of the tenant's currency.",
    "offline_ratio": "Sold by target, of what was taken offline; 1.0 is met.",
    "online": "Taken online.",
    "online_ratio": "Sold by target, of what was taken online; 1.0 is met.",
    "opens_minute": "Local minutes since midnight at which it opens every day.",
    "order": "The order.",
    "order_count": "How many orders there were.",
    "order_id": "Which order.",
    "orders": "How many orders.",
    "outreach": "The message.",
    "pack": "The pack.",
    "paid_at": "When it was paid.",
    "placed_at": "When it was placed.",
    "position": "Where it stands.",
    "price": "What one costs.",
    "product": "The product.",
    "product_id": "Which product.",
    "quantity": "How many.",
    "scenario": "The situation the consumer is in.",
    "seller": "The brand or retailer that sells.",
    "seller_id": "The brand or retailer that sells.",
    "sent_at": "When it was sent.",
    "shown": "The value as you may see it.",
    "staff": "The member of staff.",
    "staff_id": "Which member of staff.",
    "state": "How far it has come.",
    "store": "The store or warehouse.",
    "store_id": "Which store or warehouse.",
    "task": "The task.",
    "task_id": "Which task.",
    "text": "What it says.",
    "title": "What the person is called in the runtime.",
    "total": "Both together.",
    "total_ratio": "Sold by target, of both together; 1.0 is met.",
    "touchpoint": "Where it happened.",
    "unit": "The unit of the organisation.",
    "org_unit_id": "Which unit of the organisation.",
    "until_day": "The last day, included.",
    "valid_from": "The first day on which it stands.",
    "valid_until": "The first day on which it stands no more.",
    "variant": "The variant.",
    "variant_id": "Which variant.",
    "verified": "Whether it was proved.",
    "visit": "The visit.",
    "visit_id": "Which visit.",
    "zh": "In Chinese.",
    "zone": "An IANA zone, like Asia/Shanghai.",
}  # fmt: skip
"""Descriptions of fields without a comment, by their name."""


@cache
def _comments() -> Mapping[str, str]:
    """Full name of a message, field, enum, value, service or rpc -> its comment."""
    with resources.as_file(resources.files("quanyu") / "descriptors.binpb") as path:
        files = FileDescriptorSet.FromString(path.read_bytes()).file
    return dict(pair for file in files for pair in _of_file(file))


def _of_file(file: Any) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        comment = _unwrapped(location.leading_comments or location.trailing_comments)
        name = _name_at(file, list(location.path)) if comment else None
        if name:
            yield name, comment


def _unwrapped(comment: str) -> str:
    """Joins the wrapped lines of a comment. An item of a list (`- `) keeps its own line, as Markdown wants it."""
    return "\n".join(" ".join(part.split()) for part in re.split(r"\n(?= *- )", comment))


def _name_at(file: Any, path: list[int]) -> str | None:
    thing, kind, name = file, "file", str(file.package)
    while path:
        step = CHILDREN.get((kind, path[0]))
        if step is None or len(path) < 2:
            return None
        thing, kind = getattr(thing, step[0])[path[1]], step[1]
        # Protobuf puts the name of an enum value beside its enum; here it stands below the enum.
        name, path = f"{name}.{thing.name}", path[2:]
    return name


def camel(name: str) -> str:
    """`needed_by` -> `neededBy`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def of(full_name: str) -> str | None:
    """The comment of anything in the protos."""
    return _comments().get(full_name)


def of_field(field: Any) -> str | None:
    """The description of a field of a message: its comment, the plain words for its name, or the comment of its type."""
    typed = field.message_type or field.enum_type
    return of(field.full_name) or PLAIN.get(field.name) or (of(typed.full_name) if typed is not None else None)
