"""TargetServicer: targets, scorecards and credits."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from quanyu.common.v1.touch_pb2 import Scenario
from quanyu.organization.v1 import targets_pb2, targets_pb2_grpc
from services.kit.errors import Invalid
from services.kit.mongo.client import Document, MessageDocument
from services.kit.mongo.codec import request_fields, to_builtins
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.organization.chart.rules import store_org_unit_id
from services.organization.targets import rules, scorecards
from services.organization.targets.enums import Reason
from services.organization.targets.repository import TargetRepository
from services.organization.targets.rules import Target
from services.organization.targets.scorecards import STORES_MAX, Cell, Split, Sum, Tally

LATEST_FIRST = [("paid_at", -1)]
Period = targets_pb2.GetScorecardRequest | targets_pb2.BatchGetScorecardsRequest
"""The requests that name a period and a currency."""


class Subject(NamedTuple):
    """The subject of a scorecard: the id of its counter documents, its tenant, and its org unit if it can have targets."""

    id: str
    brand_id: str
    org_unit_id: str


SUBJECTS: Mapping[str, Callable[[Any], Subject]] = {
    "org_unit_id": lambda org_unit: Subject(org_unit.id, org_unit.brand_id, org_unit.id),
    "store_id": lambda store: Subject(store_org_unit_id(store.id), store.brand_id, store_org_unit_id(store.id)),
    "brand_id": lambda brand: Subject(brand.id, brand.id, ""),
}
"""Makes the subject from the document of the chart that a request field names."""


class TargetServicer(targets_pb2_grpc.TargetServiceServicer):
    """The rpcs of `TargetService`."""

    def __init__(self, runtime: Runtime, targets: TargetRepository) -> None:
        self.transactions, self.targets, self.chart = runtime.transactions, targets, targets.chart
        self.collections: Mapping[str, ScopedCollection[Any]] = {
            "org_unit_id": self.chart.org_units, "store_id": self.chart.stores, "brand_id": self.chart.brands,
        }  # fmt: skip

    @transactional
    async def SetTarget(self, request: targets_pb2.SetTargetRequest, uow: UnitOfWork) -> targets_pb2.SetTargetResponse:
        org_unit = await self.chart.org_units.load(request.org_unit_id, session=uow.session, writing=True)
        brand = await self.chart.brands.load(org_unit.brand_id, session=uow.session)
        scenario = request_fields(request).get("scenario")
        target = rules.create_target(
            org_unit.id, brand.id, request.month, scenario, brand.currency, request.online_minor, request.offline_minor
        )
        return targets_pb2.SetTargetResponse(target=await self.targets.set_target(uow, target))

    async def GetScorecard(self, request: targets_pb2.GetScorecardRequest, context: Any) -> targets_pb2.GetScorecardResponse:
        field = request.WhichOneof("subject")
        if field is None:
            message = "The subject is missing. Set `orgUnitId`, `storeId` or `brandId`."
            raise Invalid(Reason.SUBJECT_REQUIRED, message, field="org_unit_id")
        id = getattr(request, field)
        cards = await self._load_scorecards(request, field, [id])
        if not cards:
            raise self.collections[field].not_found(id)
        return targets_pb2.GetScorecardResponse(scorecard=cards[0])

    async def BatchGetScorecards(
        self, request: targets_pb2.BatchGetScorecardsRequest, context: Any
    ) -> targets_pb2.BatchGetScorecardsResponse:  # fmt: skip
        cards = await self._load_scorecards(request, *batch_lists.selected_ids(request, "org_unit_ids", "store_ids", "brand_ids"))
        return targets_pb2.BatchGetScorecardsResponse(scorecards=cards)

    async def _load_scorecards(self, request: Period, field: str, ids: Sequence[str]) -> list[MessageDocument]:
        """Returns the scorecards of those ids that are within the caller's scope. `field` says what the ids name."""
        from_day, until_day = scorecards.parse_days(request.from_day, request.until_day)
        buckets = scorecards.buckets(from_day, until_day)
        documents = await self.chart.load_by_ids(self.collections[field], ids, None, scoped=True)
        subjects = {id: SUBJECTS[field](document) for id, document in documents.items()}
        brands = await self.chart.load_by_ids(self.chart.brands, {subject.brand_id for subject in subjects.values()}, None)
        targets = await self.targets.load_targets({subject.org_unit_id for subject in subjects.values()} - {""}, from_day, until_day)
        keys = [(subject.id, bucket) for subject in subjects.values() for bucket in buckets]
        keys += [(subject.id, target.month) for subject in subjects.values() for target in targets.get(subject.org_unit_id, ())]
        cells = await self.targets.load_cells(keys)
        cards: list[MessageDocument] = []
        for id, subject in subjects.items():
            currency = scorecards.choose_currency(request.currency, brands[subject.brand_id].currency)
            tally = scorecards.tally((cell for bucket in buckets for cell in cells.get((subject.id, bucket), ())), currency)
            attainments = [
                build_attainment(target, cells.get((subject.id, target.month), [])) for target in targets.get(subject.org_unit_id, ())
            ]
            days = {"from_day": request.from_day, "until_day": request.until_day}
            cards.append({field: id, **days, "attainments": attainments, **build_scorecard(tally, currency)})
        return cards

    async def BatchGetCredits(self, request: targets_pb2.BatchGetCreditsRequest, context: Any) -> targets_pb2.BatchGetCreditsResponse:
        credits = await self.targets.credits.batch(request.order_ids)
        return targets_pb2.BatchGetCreditsResponse(credits=await self.targets.redact_credits(credits))

    async def ListCredits(self, request: targets_pb2.ListCreditsRequest, context: Any) -> targets_pb2.ListCreditsResponse:
        subject = request.WhichOneof("subject")
        if subject is None:
            raise Invalid(Reason.SUBJECT_REQUIRED, "The subject is missing. Set `staffId` or `storeId`.", field="staff_id")
        query: Document = {subject: getattr(request, subject)}
        credits, page = await self.targets.credits.page(query, request.page, order=LATEST_FIRST)
        return targets_pb2.ListCreditsResponse(credits=await self.targets.redact_credits(credits), page=page)

    async def BatchListCredits(self, request: targets_pb2.BatchListCreditsRequest, context: Any) -> targets_pb2.BatchListCreditsResponse:
        subject, ids = batch_lists.selected_ids(request, "staff_ids", "store_ids")
        found = await self.targets.credits.first_pages({id: {subject: id} for id in ids}, request.first, order=LATEST_FIRST)
        redacted = iter(await self.targets.redact_credits([credit for credits, _ in found.values() for credit in credits]))
        pages = {id: (list(islice(redacted, len(credits))), page) for id, (credits, page) in found.items()}
        return targets_pb2.BatchListCreditsResponse(subjects=batch_lists.to_lists("key", "credits", pages))


def build_figures(sum: Sum, currency: str) -> Document:
    """Returns a sum in the shape of the message `Figures`."""
    return {"orders": sum.orders, "items": sum.items, "amount": {"minor": sum.minor, "currency": currency}}


def build_split(split: Split, currency: str) -> Document:
    """Returns the total, online and offline sums as message fields."""
    return {
        "total": build_figures(split.total, currency),
        "online": build_figures(split.online, currency),
        "offline": build_figures(split.offline, currency),
    }


def build_scorecard(tally: Tally, currency: str) -> Document:
    """Returns the sums as fields of the message `Scorecard`."""
    order = {label: number for number, label in enumerate(Scenario.keys())}
    stores = sorted(tally.by_store.items(), key=lambda item: (-item[1].total.minor, item[0]))[:STORES_MAX]
    return {
        **build_split(tally.whole, currency),
        "by_scenario": [
            {"scenario": scenario, **build_split(split, currency)}
            for scenario, split in sorted(tally.by_scenario.items(), key=lambda item: order[item[0]])
        ],
        "by_store": [{"store_id": store_id, **build_split(split, currency)} for store_id, split in stores],
        "other_currencies": tally.other_currencies,
    }


def build_attainment(target: Target, month: list[Cell]) -> Document:
    """Returns the attainment of a target by the orders of its month, in the shape of `Attainment`. Ratios without a target are left out."""
    currency = target.total.currency
    whole = scorecards.tally((cell for cell in month if target.scenario in (None, cell.scenario)), currency).whole
    ratios = {
        "online_ratio": scorecards.ratio(whole.online.minor, target.online.minor),
        "offline_ratio": scorecards.ratio(whole.offline.minor, target.offline.minor),
        "total_ratio": scorecards.ratio(whole.total.minor, target.total.minor),
    }
    message = {name: value for name, value in to_builtins(target).items() if value is not None and name != "version"}
    return {"target": message, **build_split(whole, currency), **{name: value for name, value in ratios.items() if value is not None}}
