"""TargetService: targets, scorecards and credits."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from quanyu.common.v1.touch_pb2 import Scenario
from quanyu.organization.v1 import targets_pb2, targets_pb2_grpc
from services.kit.errors import Invalid
from services.kit.mongo.client import Document, Shaped
from services.kit.mongo.codec import builtins, fields
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.rpc import batch_lists
from services.kit.runtime.runtime import Runtime
from services.kit.transactions.unit_of_work import UnitOfWork, transactional
from services.organization.chart.rules import unit_of_store
from services.organization.targets import rules, scorecards
from services.organization.targets.enums import Reason
from services.organization.targets.repository import TargetRepository
from services.organization.targets.rules import Target
from services.organization.targets.scorecards import STORES_MAX, Cell, Split, Sum, Tally

LATEST_FIRST = [("paid_at", -1)]
Period = targets_pb2.GetScorecardRequest | targets_pb2.BatchGetScorecardsRequest
"""What says in which days and which currency."""


class Subject(NamedTuple):
    """Whose scorecard is asked for: the id of its counter documents, its tenant, and its unit if targets can be set for it."""

    id: str
    brand_id: str
    org_unit_id: str


SUBJECTS: Mapping[str, Callable[[Any], Subject]] = {
    "org_unit_id": lambda unit: Subject(unit.id, unit.brand_id, unit.id),
    "store_id": lambda store: Subject(unit_of_store(store.id), store.brand_id, unit_of_store(store.id)),
    "brand_id": lambda brand: Subject(brand.id, brand.id, ""),
}
"""By the field that names it, from its row in the chart."""


class TargetServicer(targets_pb2_grpc.TargetServiceServicer):
    """What units are meant to sell, what they sold, and to whom an order is credited."""

    def __init__(self, runtime: Runtime, targets: TargetRepository) -> None:
        self.transactions, self.targets, self.chart = runtime.transactions, targets, targets.chart
        self.charted: Mapping[str, ScopedCollection[Any]] = {
            "org_unit_id": self.chart.org_units, "store_id": self.chart.stores, "brand_id": self.chart.brands,
        }  # fmt: skip

    @transactional
    async def SetTarget(self, request: targets_pb2.SetTargetRequest, uow: UnitOfWork) -> targets_pb2.SetTargetResponse:
        owner = await self.chart.org_units.load(request.org_unit_id, session=uow.session, writing=True)
        brand = await self.chart.brands.load(owner.brand_id, session=uow.session)
        scenario = fields(request).get("scenario")
        target = rules.set_target(owner.id, brand.id, request.month, scenario, brand.currency, request.online_minor, request.offline_minor)
        return targets_pb2.SetTargetResponse(target=await self.targets.set_target(uow, target))

    async def GetScorecard(self, request: targets_pb2.GetScorecardRequest, context: Any) -> targets_pb2.GetScorecardResponse:
        named = request.WhichOneof("subject")
        if named is None:
            raise Invalid(Reason.SUBJECT_REQUIRED, "say whose scorecard", field="org_unit_id")
        id = getattr(request, named)
        cards = await self._scorecards(request, named, [id])
        if not cards:
            raise self.charted[named].missing(id)
        return targets_pb2.GetScorecardResponse(scorecard=cards[0])

    async def BatchGetScorecards(
        self, request: targets_pb2.BatchGetScorecardsRequest, context: Any
    ) -> targets_pb2.BatchGetScorecardsResponse:  # fmt: skip
        cards = await self._scorecards(request, *batch_lists.asked(request, "org_unit_ids", "store_ids", "brand_ids"))
        return targets_pb2.BatchGetScorecardsResponse(scorecards=cards)

    async def _scorecards(self, request: Period, named: str, ids: Sequence[str]) -> list[Shaped]:
        """The scorecards of those of these units, stores or brands (`named` says which) that lie within the caller's scope."""
        from_day, until_day = scorecards.days(request.from_day, request.until_day)
        buckets = scorecards.buckets(from_day, until_day)
        rows = await self.chart.those(self.charted[named], ids, None, scoped=True)
        subjects = {id: SUBJECTS[named](row) for id, row in rows.items()}
        brands = await self.chart.those(self.chart.brands, {subject.brand_id for subject in subjects.values()}, None)
        targets = await self.targets.targets_of({subject.org_unit_id for subject in subjects.values()} - {""}, from_day, until_day)
        asked = [(subject.id, bucket) for subject in subjects.values() for bucket in buckets]
        asked += [(subject.id, target.month) for subject in subjects.values() for target in targets.get(subject.org_unit_id, ())]
        found = await self.targets.cells(asked)
        cards: list[Shaped] = []
        for id, subject in subjects.items():
            currency = scorecards.currency(request.currency, brands[subject.brand_id].currency)
            tally = scorecards.tally((cell for bucket in buckets for cell in found.get((subject.id, bucket), ())), currency)
            attainments = [attainment(one, found.get((subject.id, one.month), [])) for one in targets.get(subject.org_unit_id, ())]
            days = {"from_day": request.from_day, "until_day": request.until_day}
            cards.append({named: id, **days, "attainments": attainments, **shown(tally, currency)})
        return cards

    async def BatchGetCredits(self, request: targets_pb2.BatchGetCreditsRequest, context: Any) -> targets_pb2.BatchGetCreditsResponse:
        credits = await self.targets.credits.batch(request.order_ids)
        return targets_pb2.BatchGetCreditsResponse(credits=await self.targets.shown(credits))

    async def ListCredits(self, request: targets_pb2.ListCreditsRequest, context: Any) -> targets_pb2.ListCreditsResponse:
        subject = request.WhichOneof("subject")
        if subject is None:
            raise Invalid(Reason.SUBJECT_REQUIRED, "say whose credits", field="staff_id")
        query: Document = {subject: getattr(request, subject)}
        credits, page = await self.targets.credits.page(query, request.page, order=LATEST_FIRST)
        return targets_pb2.ListCreditsResponse(credits=await self.targets.shown(credits), page=page)

    async def BatchListCredits(self, request: targets_pb2.BatchListCreditsRequest, context: Any) -> targets_pb2.BatchListCreditsResponse:
        subject, ids = batch_lists.asked(request, "staff_ids", "store_ids")
        found = await self.targets.credits.first_pages({id: {subject: id} for id in ids}, request.first, order=LATEST_FIRST)
        shown = iter(await self.targets.shown([row for rows, _ in found.values() for row in rows]))
        credits = {id: (list(islice(shown, len(rows))), page) for id, (rows, page) in found.items()}
        return targets_pb2.BatchListCreditsResponse(subjects=batch_lists.answered("key", "credits", credits))


def figures(sum: Sum, currency: str) -> Document:
    """A sum, shaped like Figures."""
    return {"orders": sum.orders, "items": sum.items, "amount": {"minor": sum.minor, "currency": currency}}


def parts(split: Split, currency: str) -> Document:
    """A sum and its parts, shaped like the messages that show them."""
    return {
        "total": figures(split.total, currency),
        "online": figures(split.online, currency),
        "offline": figures(split.offline, currency),
    }


def shown(tally: Tally, currency: str) -> Document:
    """A tally, shaped like Scorecard."""
    order = {label: number for number, label in enumerate(Scenario.keys())}
    stores = sorted(tally.by_store.items(), key=lambda item: (-item[1].total.minor, item[0]))[:STORES_MAX]
    return {
        **parts(tally.whole, currency),
        "by_scenario": [
            {"scenario": scenario, **parts(split, currency)}
            for scenario, split in sorted(tally.by_scenario.items(), key=lambda item: order[item[0]])
        ],
        "by_store": [{"store_id": store_id, **parts(split, currency)} for store_id, split in stores],
        "other_currencies": tally.other_currencies,
    }


def attainment(target: Target, month: list[Cell]) -> Document:
    """How a target stands after the orders of its month so far, shaped like Attainment; unset ratios are left out."""
    currency = target.total.currency
    whole = scorecards.tally((cell for cell in month if target.scenario in (None, cell.scenario)), currency).whole
    ratios = {
        "online_ratio": scorecards.ratio(whole.online.minor, target.online.minor),
        "offline_ratio": scorecards.ratio(whole.offline.minor, target.offline.minor),
        "total_ratio": scorecards.ratio(whole.total.minor, target.total.minor),
    }
    message = {name: value for name, value in builtins(target).items() if value is not None and name != "version"}
    return {"target": message, **parts(whole, currency), **{name: value for name, value in ratios.items() if value is not None}}
