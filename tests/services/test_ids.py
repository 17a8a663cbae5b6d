"""Tests of ids that clients choose: an id that one service accepts, all services and the graph accept."""

import pytest
from msgspec import ValidationError, convert

from gateway.schema.nodes import ID_PATTERN
from services.commerce.catalog import rules as catalog
from services.commerce.stock import rules as stock
from services.district.campaigns import rules as campaigns
from services.district.places import rules as places
from services.member.identity import rules as identity
from services.organization.chart import people
from services.organization.chart import rules as chart

BRANDS = (chart.BrandId, identity.BrandId, campaigns.BrandId, places.BrandId, catalog.BrandId)
STORES = (chart.StoreId, places.StoreId, stock.StoreId)
CONSUMERS = (identity.ConsumerId, places.ConsumerId, stock.ConsumerId)


@pytest.mark.parametrize(
    ("kinds", "id"),
    [
        (BRANDS, "brd_" + "b" * 64),
        (BRANDS, "rtl_" + "r" * 64),
        (STORES, "str_" + "s" * 64),
        ((people.StaffId,), "stf_" + "s" * 64),
        (CONSUMERS, "con_" + "c" * 96),
        (CONSUMERS, "con_legacy.4711-A_1"),
    ],
)
def test_valid_id_is_accepted_by_all_services(kinds: tuple[object, ...], id: str) -> None:
    assert [convert(id, kind) for kind in kinds] == [id] * len(kinds)
    assert ID_PATTERN.fullmatch(id)


@pytest.mark.parametrize(
    ("kinds", "id"),
    [(BRANDS, "brd_a"), (STORES, "str_a"), ((people.StaffId,), "stf_a"), ((identity.ConsumerId, stock.ConsumerId), "con_a")],
)
def test_id_that_the_graph_refuses_is_invalid(kinds: tuple[object, ...], id: str) -> None:
    for invalid in (f"{id}\n", f"{id} ", f"{id}张", f"{id}٣"):
        assert not ID_PATTERN.fullmatch(invalid)
        for kind in kinds:
            with pytest.raises(ValidationError):
                convert(invalid, kind)
