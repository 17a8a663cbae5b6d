"""Descriptions of the graph: the comments of the protos, unchanged.

They are read from `quanyu/descriptors.binpb`, which `protos/generate.py` writes beside the generated modules.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

CHILD_FIELDS = {
    ("file", 4): ("message_type", "message"),
    ("file", 5): ("enum_type", "enum"),
    ("file", 6): ("service", "service"),
    ("message", 2): ("field", "field"),
    ("message", 3): ("nested_type", "message"),
    ("message", 4): ("enum_type", "enum"),
    ("enum", 2): ("value", "value"),
    ("service", 2): ("method", "method"),
}
"""The field of a descriptor that holds children: (kind of the descriptor, field number) -> (field name, kind of the children)."""

DEFAULT_DESCRIPTIONS: Mapping[str, str] = {
    "acknowledged_at": "When the assignee acknowledged it.",
    "active": "True if it is in use.",
    "amount": "The amount of money.",
    "assignee": "The member of staff who has to do the task.",
    "at": "When it happened.",
    "binding": "The binding of the consumer to a guide.",
    "bound_at": "When the binding began.",
    "bound_brand": "The brand for which the consumer is bound to the guide.",
    "brand": "The brand or retailer.",
    "brand_id": "The id of the brand or retailer.",
    "campaign": "The campaign.",
    "campaign_id": "The id of the campaign.",
    "cancelled_at": "When it was cancelled.",
    "category": "The category in lower case, such as `shirt`; may be empty.",
    "closed_at": "When it was closed.",
    "closes_minute": "The time at which it closes every day, in local minutes since midnight; 1440 if it opens at 0 and never closes.",
    "consumer": "The consumer.",
    "consumer_id": "The id of the consumer.",
    "coupon": "The coupon.",
    "coupon_id": "The id of the coupon.",
    "coupons": "The coupons.",
    "created_at": "When it was created.",
    "currency": "The currency as its ISO 4217 code, such as CNY.",
    "delivers": "True if it can hand goods to a courier.",
    "discount": "The amount that the coupons take off.",
    "display_name": "The consumer's display name.",
    "district": "The district.",
    "district_id": "The id of the district.",
    "en": "The text in English.",
    "ended_grant_ids": "The ids of the grants that ended.",
    "evidence": "The kinds of identity that both consumers share.",
    "first_at": "When the first interaction happened.",
    "franchised": "True if its stores belong to franchisees.",
    "from_day": "The first day, such as 2024-05-01.",
    "grant_id": "The id of the grant.",
    "granted": "True if the consumer allows it.",
    "held_at": "When the goods were reserved.",
    "hold": "The hold.",
    "hold_id": "The id of the hold.",
    "id": "Unique in the whole graph; it never changes.",
    "identity_id": "The id of the identity.",
    "interaction_count": "The number of interactions.",
    "interaction_id": "The id of the interaction.",
    "items": "The number of items.",
    "kind": "The kind.",
    "last_at": "When the latest interaction happened.",
    "link_id": "The id of the link.",
    "linked_at": "When the consumers were linked.",
    "linked_consumer": "The consumer who is linked to the other one.",
    "linked_consumer_id": "The id of the consumer who is linked to the other one.",
    "method": "The method.",
    "month": "The month, such as 2024-05.",
    "name": "The name.",
    "note": "A note.",
    "offer": "The offer.",
    "offer_id": "The id of the offer.",
    "offline": "The orders that were taken offline.",
    "offline_minor": "The target for orders taken offline, in minor units of the tenant's currency.",
    "offline_ratio": "The offline sales divided by the offline target; 1.0 means that the target is met.",
    "online": "The orders that were taken online.",
    "online_ratio": "The online sales divided by the online target; 1.0 means that the target is met.",
    "opens_minute": "The time at which it opens every day, in local minutes since midnight.",
    "order": "The order.",
    "order_count": "The number of orders.",
    "order_id": "The id of the order.",
    "orders": "The number of orders.",
    "outreach": "The message.",
    "pack": "The pack.",
    "paid_at": "When it was paid.",
    "placed_at": "When it was placed.",
    "position": "The geographic position.",
    "price": "The price of one item.",
    "product": "The product.",
    "product_id": "The id of the product.",
    "quantity": "The number of items.",
    "scenario": "The situation of the consumer.",
    "seller": "The brand or retailer that sells.",
    "seller_id": "The id of the brand or retailer that sells.",
    "sent_at": "When it was sent.",
    "shown": "The value, as much of it as you may see.",
    "staff": "The member of staff.",
    "staff_id": "The id of the member of staff.",
    "state": "The current state.",
    "store": "The store or warehouse.",
    "store_id": "The id of the store or warehouse.",
    "task": "The task.",
    "task_id": "The id of the task.",
    "text": "The text.",
    "title": "The job title.",
    "total": "The sum of online and offline.",
    "total_ratio": "The total sales divided by the total target; 1.0 means that the target is met.",
    "touchpoint": "Where it happened.",
    "unit": "The org unit.",
    "org_unit_id": "The id of the org unit.",
    "until_day": "The last day, included.",
    "valid_from": "The first day on which it is valid.",
    "valid_until": "The first day on which it is no longer valid.",
    "variant": "The variant.",
    "variant_id": "The id of the variant.",
    "verified": "True if it was verified.",
    "visit": "The visit.",
    "visit_id": "The id of the visit.",
    "zh": "The text in Chinese.",
    "zone": "The IANA time zone, such as Asia/Shanghai.",
}  # fmt: skip
"""Describes fields that have no comment in the protos, by their name."""


@cache
def _comments() -> Mapping[str, str]:
    """Returns the comments by the full name of their message, field, enum, enum value, service or rpc."""
    with resources.as_file(resources.files("quanyu") / "descriptors.binpb") as path:
        files = FileDescriptorSet.FromString(path.read_bytes()).file
    return dict(pair for file in files for pair in _comments_of_file(file))


def _comments_of_file(file: Any) -> Iterator[tuple[str, str]]:
    for location in file.source_code_info.location:
        comment = _unwrapped(location.leading_comments or location.trailing_comments)
        name = _name_at(file, list(location.path)) if comment else None
        if name:
            yield name, comment


def _unwrapped(comment: str) -> str:
    """Joins the wrapped lines of a comment. An item of a list (`- `) keeps its own line, as Markdown wants it."""
    return "\n".join(" ".join(part.split()) for part in re.split(r"\n(?= *- )", comment))


def _name_at(file: Any, path: list[int]) -> str | None:
    """Returns the full name of the element at a path of field numbers and indexes; None if it has no name."""
    element, kind, name = file, "file", str(file.package)
    while path:
        step = CHILD_FIELDS.get((kind, path[0]))
        if step is None or len(path) < 2:
            return None
        element, kind = getattr(element, step[0])[path[1]], step[1]
        # Protobuf scopes enum values beside their enum; here they are below it, so that each name is unique.
        name, path = f"{name}.{element.name}", path[2:]
    return name


def to_camel_case(name: str) -> str:
    """Returns `neededBy` for `needed_by`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def find_comment(full_name: str) -> str | None:
    """Returns the comment of an element of the protos, if it has one."""
    return _comments().get(full_name)


def describe_field(field: Any) -> str | None:
    """Returns the comment of a message's field, else the description for its name, else the comment of its type."""
    type_ = field.message_type or field.enum_type
    return find_comment(field.full_name) or DEFAULT_DESCRIPTIONS.get(field.name) or (find_comment(type_.full_name) if type_ else None)
