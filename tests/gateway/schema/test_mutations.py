"""Mutations: the members of their results, which of them require a key, and the type of each reason."""

import re

from graphql import GraphQLInputObjectType, GraphQLNonNull, GraphQLUnionType, get_named_type

from gateway.schema import descriptions, refusal_types
from gateway.schema.rpc_fields import MutationField
from services.kit.errors import FAMILY
from services.kit.security import authorization
from tests.gateway.graph import CORE, declared_fields, proto_files, proto_reasons

MUTATIONS = {where.removeprefix("Mutation."): field for where, field in declared_fields(MutationField)}


def test_result_is_payload_or_refusal() -> None:
    assert CORE.mutation_type is not None
    for name, field in CORE.mutation_type.fields.items():
        union = get_named_type(field.type)
        assert isinstance(union, GraphQLUnionType)
        payload, *refusals = union.types
        assert payload.name == name[0].upper() + name[1:] + "Payload"
        assert {"InvalidInput", "NotFound", "NotPermitted", "Conflict", "Exhausted", "TryAgain"} <= {each.name for each in refusals}
        assert all("Refusal" in {interface.name for interface in each.interfaces} for each in refusals)


MOVING = {
    "adjustStock": "stock",
    "cancelOrder": "stock, coupons and money",
    "claimPack": "coupons",
    "holdPromise": "stock",
    "holdStock": "stock",
    "joinCampaign": "a brand's budget",
    "payOrder": "money",
    "placeOrder": "stock and coupons",
    "releaseHold": "stock",
    "sendOutreach": "a consumer's message quota",
    "setPrice": "the price of goods",
    "setStock": "stock",
}
"""What each of these mutations moves. Executed twice, it would move twice."""
NOT_MOVING = {
    "acknowledgeTask": "marks",
    "addIdentity": "identifies",
    "bindConsumer": "binds",
    "completeTask": "marks",
    "createBrand": "makes",
    "createCampaign": "makes",
    "createDistrict": "makes",
    "createProduct": "makes",
    "createStore": "makes",
    "createOrgUnit": "makes",
    "createVenue": "makes",
    "dismissStaff": "employs",
    "enterDistrict": "visits",
    "grantRole": "permits",
    "hireStaff": "employs",
    "leaveDistrict": "visits",
    "linkConsumers": "identifies",
    "markRead": "marks",
    "moveStaff": "employs",
    "moveOrgUnit": "employs",
    "recordInteraction": "visits",
    "registerConsumer": "identifies",
    "revokeGrant": "permits",
    "setConsent": "describes",
    "setTarget": "describes",
    "unbindConsumer": "binds",
    "unlinkConsumers": "identifies",
    "updateStore": "describes",
}
"""What each of these mutations does instead. Executed twice, it may create something twice, but nothing is lost."""


def test_moving_mutation_requires_idempotency_key() -> None:
    assert sorted([*MOVING, *NOT_MOVING]) == sorted(MUTATIONS), "each mutation belongs in one of the two tables"
    required = set()
    for name, field in MUTATIONS.items():
        given = CORE.type_map[field.input_class.__name__]
        assert isinstance(given, GraphQLInputObjectType)
        required |= {name} if isinstance(given.fields["idempotencyKey"].type, GraphQLNonNull) else set()
    assert required == set(MOVING)


FAMILY_REASONS = {
    "ALREADY_LINKED", "BEYOND_OWN_REACH", "BRAND_EXISTS", "BRAND_NOT_FOUND", "BRAND_NOT_YOURS", "CAMPAIGN_EXISTS",
    "CAMPAIGN_FULL", "CAMPAIGN_NOT_FOUND", "CAMPAIGN_OVER", "CONSUMER_ID_TAKEN", "CONSUMER_NOT_FOUND", "CURRENCY_MIXED",
    "DATES_INVALID", "DESTINATION_MISSING", "DISTRICT_EXISTS", "DISTRICT_FULL", "DISTRICT_NOT_FOUND", "EMPTY_TARGET",
    "GEOFENCE_INVALID", "GRANT_EXISTS", "GRANT_NOT_FOUND", "HOLD_NOT_FOUND", "IDENTITIES_DISAGREE", "IDENTITY_TAKEN",
    "INVALID_HOURS", "INVALID_MONTH", "INVALID_PERIOD", "INVALID_PHONE", "INVALID_ZONE", "IN_THE_FUTURE", "JOINED_ALREADY",
    "KIND_NOT_RECORDED", "LINES_MISSING", "LINK_NOT_YOURS", "NAME_MISSING", "NEAR_MISSING", "NOT_DELIVERED_HERE", "NOT_LINKED",
    "NO_CAMPAIGN", "ORDER_CANCELLED", "ORDER_LOCKED_OTHERWISE", "ORDER_NOT_FOUND", "ORDER_NOT_PLACED", "ORDER_PAID",
    "OUTCOME_REQUIRED", "OUTREACH_NOT_FOUND", "PAYMENT_METHOD_REFUSED", "PLACE_REQUIRED", "PRODUCT_EXISTS", "ROLE_NOT_GRANTABLE",
    "SAME_PERSON", "STAFF_EXISTS", "STAFF_LEFT", "STAFF_NOT_FOUND", "STAFF_UNKNOWN", "STOCK_NOT_FOUND", "STOCK_RESERVED",
    "STORES_MIXED", "STORE_EXISTS", "STORE_NOT_FOUND", "SUBJECT_IN_USE", "SUBJECT_NOT_YOURS", "SUBTREE_TOO_LARGE",
    "TASK_NOT_FOUND", "TERMS_INVALID", "TOO_MANY_CONSENTS", "TOO_MANY_IDENTITIES", "TOO_MANY_LINKED", "TOO_MANY_ON_HAND",
    "ORG_UNIT_CYCLE", "ORG_UNIT_EXISTS", "ORG_UNIT_IS_ROOT", "ORG_UNIT_KIND_NOT_ALLOWED", "ORG_UNIT_NOT_FOUND", "ORG_UNIT_OF_ANOTHER_BRAND",
    "ORG_UNIT_TOO_DEEP", "VARIANT_EXISTS", "VARIANT_NOT_FOUND", "VARIANT_REPEATED", "VENUE_EXISTS", "VISIT_NOT_FOUND",
}  # fmt: skip
"""Reasons without fields that a front end uses: their refusals have the type of their family."""


def test_reason_of_mutation_has_a_type() -> None:
    """A reason in neither table is new: give it a type if a front end uses its fields. Remove a reason that no mutation declares."""
    typed = set(refusal_types.BY_REASON)
    declared = {reason for field in MUTATIONS.values() for reason in authorization.reasons_of(field.rpc.method)}
    assert declared - typed == FAMILY_REASONS
    assert typed <= declared


def test_union_has_the_types_of_declared_reasons() -> None:
    assert CORE.mutation_type is not None
    for name, field in CORE.mutation_type.fields.items():
        union = get_named_type(field.type)
        assert isinstance(union, GraphQLUnionType)
        declared_types = {
            type_.__name__
            for reason in authorization.reasons_of(MUTATIONS[name].rpc.method)
            if (type_ := refusal_types.BY_REASON.get(reason))
        }
        own_types = {type_.__name__ for type_ in refusal_types.BY_REASON.values()}
        assert {each.name for each in union.types} & own_types == declared_types


REASON = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
"""A reason or the label of an enum in a comment."""
ENUM_LABELS = {value.name for file in proto_files() for enum in file.enum_types_by_name.values() for value in enum.values}
"""Labels that comments also name."""


def test_reason_in_comment_exists() -> None:
    """A misspelt reason would mislead the readers of the description."""
    known, unknown = proto_reasons() | ENUM_LABELS, {}
    for file in proto_files():
        for method in (method for service in file.services_by_name.values() for method in service.methods):
            words = REASON.findall(descriptions.find_comment(method.full_name) or "")
            if misspelt := {word for word in words if word not in known and not word.startswith(("ROLE_", "QUANYU_"))}:
                unknown[method.full_name] = misspelt
    assert unknown == {}


def test_every_refusal_has_a_type() -> None:
    assert set(refusal_types.BY_FAMILY) == set(FAMILY)
