"""Fixtures: the service alone, and with a small tenant: headquarters > north > two areas with a store each, and staff."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from quanyu.access.v1 import access_pb2
from quanyu.common.v1.point_pb2 import Point
from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc, targets_pb2_grpc, tasks_pb2_grpc
from services.kit.security.principals import INSTALLATION, Grant
from tests.services.conftest import ServiceHarness

OPERATOR = Grant("ROLE_OPERATOR", INSTALLATION)
GUIDE_1 = (Grant("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"), Grant("ROLE_GUIDE", "SCOPE_KIND_STAFF", "stf_guide1"))
GUIDE_1B = (Grant("ROLE_GUIDE", "SCOPE_KIND_STORE", "str_1"), Grant("ROLE_GUIDE", "SCOPE_KIND_STAFF", "stf_guide1b"))
MANAGER_1 = (Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_1"),)
MANAGER_2 = (Grant("ROLE_STORE_MANAGER", "SCOPE_KIND_STORE", "str_2"),)
SUPERVISOR = (Grant("ROLE_SUPERVISOR", "SCOPE_KIND_ORG_UNIT", "unt_north"),)
BRAND = (Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "brd_a"),)
OTHER_BRAND = (Grant("ROLE_BRAND_OPERATOR", "SCOPE_KIND_BRAND", "rtl_r"),)
NAME = chart_pb2.Name(zh="三里屯", en="Sanlitun")
SANLITUN = Point(longitude=116.455, latitude=39.935)

STAFF = [
    ("stf_guide1", "str_1", access_pb2.ROLE_GUIDE),
    ("stf_guide1b", "str_1", access_pb2.ROLE_GUIDE),
    ("stf_guide2", "str_2", access_pb2.ROLE_GUIDE),
    ("stf_manager1", "str_1", access_pb2.ROLE_STORE_MANAGER),
]


class Organization:
    """The running service, with stubs that call it with given grants (the operator's, if none are given)."""

    def __init__(self, running: ServiceHarness) -> None:
        self.running, self.database = running, running.database
        self.channels: dict[tuple[Grant, ...], grpc.aio.Channel] = {}
        self.requests = 0

    def _channel(self, grants: tuple[Grant, ...]) -> grpc.aio.Channel:
        if grants not in self.channels:
            self.channels[grants] = self.running.channel_as(*grants)
        return self.channels[grants]

    def chart(self, *grants: Grant) -> chart_pb2_grpc.ChartServiceStub:
        return chart_pb2_grpc.ChartServiceStub(self._channel(grants or (OPERATOR,)))

    def targets(self, *grants: Grant) -> targets_pb2_grpc.TargetServiceStub:
        return targets_pb2_grpc.TargetServiceStub(self._channel(grants or (OPERATOR,)))

    def tasks(self, *grants: Grant) -> tasks_pb2_grpc.TaskServiceStub:
        return tasks_pb2_grpc.TaskServiceStub(self._channel(grants or (OPERATOR,)))

    def new_request_id(self) -> str:
        self.requests += 1
        return f"req_{self.requests}"

    async def published(self, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in await self.running.published_events() if event.WhichOneof("body") == kind]

    async def plan(self, collection: str, query: dict, sort: list[tuple[str, int]] | None = None) -> str:
        """Returns the winning plan of a query, as text."""
        command: dict[str, Any] = {"find": collection, "filter": query}
        if sort:
            command["sort"] = dict(sort)
        answer = await self.database.raw.command({"explain": command, "verbosity": "queryPlanner"})
        return str(answer["queryPlanner"]["winningPlan"])


Grow = Callable[[], Awaitable[Organization]]


@pytest.fixture
async def service(organization: ServiceHarness) -> Organization:
    """The service without data."""
    return Organization(organization)


@pytest.fixture
async def tenant(service: Organization) -> Organization:
    """The service with the small tenant and a retailer."""
    chart = service.chart()
    for id, kind, zone, currency in [
        ("brd_a", chart_pb2.BRAND_KIND_BRAND, "Asia/Shanghai", "CNY"),
        ("rtl_r", chart_pb2.BRAND_KIND_RETAILER, "America/New_York", "USD"),
    ]:
        await chart.CreateBrand(
            chart_pb2.CreateBrandRequest(
                request_id=service.new_request_id(), brand_id=id, kind=kind, name=NAME, zone=zone, currency=currency
            )
        )
    for id, kind, parent in [
        ("unt_north", chart_pb2.ORG_UNIT_KIND_REGION, "unt_brd_a"),
        ("unt_south", chart_pb2.ORG_UNIT_KIND_REGION, "unt_brd_a"),
        ("unt_area1", chart_pb2.ORG_UNIT_KIND_SUPERVISOR_AREA, "unt_north"),
        ("unt_area2", chart_pb2.ORG_UNIT_KIND_SUPERVISOR_AREA, "unt_north"),
    ]:
        await chart.CreateOrgUnit(
            chart_pb2.CreateOrgUnitRequest(request_id=service.new_request_id(), org_unit_id=id, kind=kind, parent_id=parent, name=NAME)
        )
    rows = [
        chart_pb2.StoreRow(
            store_id=id,
            kind=chart_pb2.STORE_KIND_STORE,
            parent_id=parent,
            name=NAME,
            position=SANLITUN,
            opens_minute=600,
            closes_minute=1320,
        )
        for id, parent in [("str_1", "unt_area1"), ("str_2", "unt_area2"), ("str_r", "unt_rtl_r")]
    ]
    stores = await chart.ImportStores(chart_pb2.ImportStoresRequest(request_id=service.new_request_id(), rows=rows))
    people = [
        chart_pb2.StaffRow(staff_id=id, store_id=store, name="王芳", title="导购", role=role, subject=f"oidc|{id}")
        for id, store, role in STAFF
    ]
    people.append(chart_pb2.StaffRow(staff_id="stf_super", org_unit_id="unt_north", name="李雷", role=access_pb2.ROLE_SUPERVISOR))
    staff = await chart.ImportStaff(chart_pb2.ImportStaffRequest(request_id=service.new_request_id(), rows=people))
    assert (stores.accepted, staff.accepted, list(stores.rejects), list(staff.rejects)) == (3, 5, [], [])
    return service
