"""ChartServicer: tenants, org units and stores. The rpcs of staff are in `people_rpc.py`, imports in `imports.py`."""

from typing import Any

from msgspec.structs import replace

from quanyu.organization.v1 import chart_pb2, chart_pb2_grpc
from services.kit import ids
from services.kit.mongo.codec import request_fields, to_struct
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.organization.chart import rules
from services.organization.chart.enums import Reason
from services.organization.chart.imports import ImportsMixin, invalidates_scope_cache
from services.organization.chart.people_rpc import FindContacts
from services.organization.chart.repository import ChartRepository
from services.organization.chart.rules import BrandDraft, OrgUnitDraft, StoreChanges, StoreDraft

TOP_DOWN = [("level", 1)]


class ChartServicer(ImportsMixin, chart_pb2_grpc.ChartServiceServicer):
    """The rpcs of `ChartService`."""

    def __init__(self, runtime: Runtime, chart: ChartRepository, find_contacts: FindContacts) -> None:
        self.transactions, self.scopes, self.encryption, self.clock = (
            runtime.transactions,
            runtime.scopes,
            runtime.encryption,
            runtime.clock,
        )
        self.development = runtime.settings.env == "development"
        self.chart, self.find_contacts = chart, find_contacts

    # Tenants ---------------------------------------------------------------------------------------------------------

    @transactional
    async def CreateBrand(self, request: chart_pb2.CreateBrandRequest, uow: UnitOfWork) -> chart_pb2.CreateBrandResponse:
        prefix = "rtl" if request.kind == chart_pb2.BRAND_KIND_RETAILER else "brd"
        brand, root = rules.create_brand(request.brand_id or ids.new(prefix), to_struct(request_fields(request), BrandDraft))
        await self.chart.require_free_id(self.chart.brands, brand.id, Reason.BRAND_EXISTS, uow.session)
        await self.chart.org_units.unscoped.insert(uow, root)
        return chart_pb2.CreateBrandResponse(brand=await self.chart.brands.unscoped.insert(uow, brand))

    async def GetBrand(self, request: chart_pb2.GetBrandRequest, context: Any) -> chart_pb2.GetBrandResponse:
        return chart_pb2.GetBrandResponse(brand=await self.chart.brands.get(request.id))

    async def BatchGetBrands(self, request: chart_pb2.BatchGetBrandsRequest, context: Any) -> chart_pb2.BatchGetBrandsResponse:
        return chart_pb2.BatchGetBrandsResponse(brands=await self.chart.brands.batch(request.ids))

    # Org units -------------------------------------------------------------------------------------------------------

    @transactional
    async def CreateOrgUnit(self, request: chart_pb2.CreateOrgUnitRequest, uow: UnitOfWork) -> chart_pb2.CreateOrgUnitResponse:
        parent = await self.chart.org_units.load(request.parent_id, session=uow.session, writing=True)
        await self.chart.lock_trees([parent.brand_id], uow.session)
        org_unit = rules.create_org_unit(request.org_unit_id or ids.new("unt"), to_struct(request_fields(request), OrgUnitDraft), parent)
        await self.chart.require_free_id(self.chart.org_units, org_unit.id, Reason.ORG_UNIT_EXISTS, uow.session)
        return chart_pb2.CreateOrgUnitResponse(org_unit=await self.chart.org_units.unscoped.insert(uow, org_unit))

    @invalidates_scope_cache
    @transactional
    async def MoveOrgUnit(self, request: chart_pb2.MoveOrgUnitRequest, uow: UnitOfWork) -> chart_pb2.MoveOrgUnitResponse:
        moving = await self.chart.org_units.load(request.org_unit_id, session=uow.session, writing=True)
        parent = await self.chart.org_units.load(request.parent_id, session=uow.session, writing=True)
        await self.chart.lock_trees([moving.brand_id], uow.session)
        before = await self.chart.load_subtree(moving.id, uow.session)
        after = rules.move_subtree(before, moving.id, parent)
        await self.chart.save(self.chart.org_units, list(zip(before, after, strict=True)), uow.session)
        paths = {new.store_id: new.org_unit_ids for old, new in zip(before, after, strict=True) if new.store_id and new != old}
        stores = await self.chart.load_by_ids(self.chart.stores, paths, uow.session)
        await self.chart.publish_store_changes(uow, [rules.store_changed_event(store, paths[store.id]) for store in stores.values()])
        return chart_pb2.MoveOrgUnitResponse(org_unit=await self.chart.org_units.unscoped.get(moving.id, session=uow.session))

    async def GetOrgUnit(self, request: chart_pb2.GetOrgUnitRequest, context: Any) -> chart_pb2.GetOrgUnitResponse:
        return chart_pb2.GetOrgUnitResponse(org_unit=await self.chart.org_units.get(request.id))

    async def BatchGetOrgUnits(self, request: chart_pb2.BatchGetOrgUnitsRequest, context: Any) -> chart_pb2.BatchGetOrgUnitsResponse:
        return chart_pb2.BatchGetOrgUnitsResponse(org_units=await self.chart.org_units.batch(request.ids))

    async def ListOrgUnits(self, request: chart_pb2.ListOrgUnitsRequest, context: Any) -> chart_pb2.ListOrgUnitsResponse:
        org_units, page = await self.chart.org_units.page({"org_unit_ids": request.org_unit_id}, request.page, order=TOP_DOWN)
        return chart_pb2.ListOrgUnitsResponse(org_units=org_units, page=page)

    async def BatchListOrgUnits(self, request: chart_pb2.BatchListOrgUnitsRequest, context: Any) -> chart_pb2.BatchListOrgUnitsResponse:
        name, org_unit_ids = batch_lists.selected_ids(request, "org_unit_ids")
        found = await self.chart.org_units.first_pages({id: {"org_unit_ids": id} for id in org_unit_ids}, request.first, order=TOP_DOWN)
        return chart_pb2.BatchListOrgUnitsResponse(trees=batch_lists.to_lists(name, "org_units", found))

    # Stores ----------------------------------------------------------------------------------------------------------

    @invalidates_scope_cache
    @transactional
    async def CreateStore(self, request: chart_pb2.CreateStoreRequest, uow: UnitOfWork) -> chart_pb2.CreateStoreResponse:
        parent = await self.chart.org_units.load(request.parent_id, session=uow.session, writing=True)
        await self.chart.lock_trees([parent.brand_id], uow.session)
        brand = await self.chart.brands.load(parent.brand_id, session=uow.session)
        draft = to_struct(request_fields(request), StoreDraft)
        store, org_unit = rules.create_store(request.store_id or ids.new("str"), draft, parent, brand.zone)
        await self.chart.require_free_id(self.chart.stores, store.id, Reason.STORE_EXISTS, uow.session)
        await self.chart.require_free_id(self.chart.org_units, org_unit.id, Reason.ORG_UNIT_EXISTS, uow.session)
        await self.chart.org_units.unscoped.insert(uow, org_unit)
        created = await self.chart.stores.unscoped.insert(uow, store)
        await self.chart.publish_store_changes(uow, [rules.store_changed_event(store, org_unit.org_unit_ids)])
        return chart_pb2.CreateStoreResponse(store=created)

    @transactional
    async def UpdateStore(self, request: chart_pb2.UpdateStoreRequest, uow: UnitOfWork) -> chart_pb2.UpdateStoreResponse:
        store = await self.chart.stores.load(request.store_id, session=uow.session, writing=True)
        org_unit = await self.chart.org_units.unscoped.load(store.org_unit_id, session=uow.session)
        changes = to_struct(request_fields(request), StoreChanges)
        if changes.name:
            await self.chart.org_units.unscoped.replace(uow, replace(org_unit, name=changes.name), before=org_unit)
        after = await self.chart.stores.apply_rule(uow, store.id, rules.update_store, changes=changes, org_unit_ids=org_unit.org_unit_ids)
        return chart_pb2.UpdateStoreResponse(store=after)

    async def GetStore(self, request: chart_pb2.GetStoreRequest, context: Any) -> chart_pb2.GetStoreResponse:
        return chart_pb2.GetStoreResponse(store=await self.chart.stores.get(request.id))

    async def BatchGetStores(self, request: chart_pb2.BatchGetStoresRequest, context: Any) -> chart_pb2.BatchGetStoresResponse:
        return chart_pb2.BatchGetStoresResponse(stores=await self.chart.stores.batch(request.ids))
