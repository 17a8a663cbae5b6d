"""Collection of packs, the ranking of brands for a person, and the group-commit command that issues a pack.

The command writes budgets, pack and coupons together or not at all.
"""

from collections.abc import Sequence
from datetime import date, datetime

from msgspec import Struct
from pymongo import ASCENDING, DESCENDING, IndexModel

from quanyu.district.v1 import packs_pb2
from services.district.campaigns.repository import BUDGETS, BudgetRepository
from services.district.campaigns.rules import Budget
from services.district.matching import rules as matching
from services.district.matching.repository import AffinityRepository
from services.district.packs import rules
from services.district.packs.consents import ConsentClient
from services.district.packs.rules import Candidate, Pack
from services.district.places.rules import PackedCoupon, Visit
from services.district.wallet.enums import CouponState
from services.district.wallet.repository import COUPONS, CouponRepository
from services.district.wallet.rules import compute_state, to_packed_coupon
from services.kit.enums import ScopeKind
from services.kit.mongo.client import Database, Document, MessageDocument, Session
from services.kit.mongo.codec import project, to_document, to_struct
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey

PACKS, VISITS = "packs", "visits"
"""The names of the collections of packs and visits."""


class Claim(Struct, frozen=True):
    """A consumer's claim of the day's pack, with all data that the decision needs except the budgets."""

    consumer_id: str
    person: Person
    visit: Visit
    today: date
    at: datetime
    ranked: tuple[Candidate, ...] = ()

    @property
    def pack_ids(self) -> dict[str, str]:
        """The possible ids of the day's pack, by consumer id of the person."""
        day = date.fromisoformat(self.visit.day)
        return {id: rules.pack_id(id, self.visit.district_id, day) for id in sorted(self.person.ids)}


class BrandRanker:
    """Ranks the brands with running campaigns of a district for a person."""

    def __init__(self, budgets: BudgetRepository, affinity: AffinityRepository, consents: ConsentClient) -> None:
        self.budgets, self.affinity, self.consents = budgets, affinity, consents

    async def rank(self, claim: Claim) -> tuple[Candidate, ...]:
        """Returns the candidates for a claim, the best first. Raises `Conflict` (VISIT_OVER) if the visit allows no pack."""
        rules.check_visit(claim.visit, claim.today)
        budgets = await self.budgets.find_running(claim.visit.district_id, claim.at)
        affinities = await self.affinity.find_affinities(claim.person.ids, {budget.brand_id for budget in budgets})
        seed = f"{claim.person.id}|{claim.visit.day}"
        brand_ids = matching.rank((budget.brand_id for budget in budgets), affinities, claim.at, seed)
        granted = await self.consents.find_granted(claim.consumer_id, brand_ids)
        available: dict[str, tuple[Budget, ...]] = {}
        for budget in budgets:
            if budget.remaining > 0:
                available[budget.brand_id] = (*available.get(budget.brand_id, ()), budget)
        return tuple(
            Candidate(brand_id, rules.explain_pick(affinities.get(brand_id), claim.at), available.get(brand_id, ()), brand_id in granted)
            for brand_id in brand_ids
        )


class PackRepository(ScopedCollection[Pack]):
    """The packs of consumers."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, PACKS, noun="PACK", struct=Pack, message=packs_pb2.Pack, scopes={ScopeKind.CONSUMER: "consumer_id"},
            indexes=[IndexModel([("consumer_id", ASCENDING), ("issued_at", DESCENDING), ("_id", ASCENDING)])],
        )  # fmt: skip

    async def has_pack(self, claim: Claim) -> bool:
        """True if the person has the day's pack. Packs are never deleted."""
        return await self.collection.find_one({"_id": {"$in": list(claim.pack_ids.values())}}, {"_id": 1}) is not None

    async def find_unspent(
        self, coupons: CouponRepository, visit: Visit, person: Person, at: datetime, session: Session
    ) -> tuple[PackedCoupon, ...]:
        """Returns the unspent coupons of the pack of a visit's day, in the pack's order."""
        day = date.fromisoformat(visit.day)
        ids = [rules.pack_id(id, visit.district_id, day) for id in sorted(person.ids)]
        documents = await self.collection.find({"_id": {"$in": ids}}, {"entries.coupon_id": 1}, session=session).to_list(None)
        coupon_ids = [entry["coupon_id"] for document in documents for entry in document["entries"]]
        found = await coupons.find_by_ids(coupon_ids, session)
        unspent = [found[id] for id in coupon_ids if id in found and compute_state(found[id], at) is CouponState.ISSUED]
        return tuple(map(to_packed_coupon, unspent))

    async def issue(self, group_commit: GroupCommit, key: IdempotencyKey, claim: Claim) -> packs_pb2.ClaimPackResponse:
        """The day's pack: the one that stands, or a fresh one."""
        packs = [DocumentRef(PACKS, id) for id in claim.pack_ids.values()]
        visit = DocumentRef(VISITS, claim.visit.id)
        budgets = [DocumentRef(BUDGETS, id) for id in rules.shortlist(claim.ranked)]
        return await group_commit.run(key, [*packs, visit, *budgets], IssuePack(claim, packs, visit, budgets), packs_pb2.ClaimPackResponse)


class IssuePack(Struct, frozen=True):
    """Returns the day's pack if the person has one; otherwise issues it: a coupon of each budget, pack, coupons and event.

    The visit has an empty increment, so that the commit proves that the consumer has not left in the meantime.
    """

    claim: Claim
    packs: Sequence[DocumentRef]
    visit: DocumentRef
    budgets: Sequence[DocumentRef]

    def __call__(self, snapshot: Snapshot) -> ChangeSet:
        claim = self.claim
        for ref in self.packs:
            if (existing := snapshot[ref]) is not None:
                return ChangeSet(increments={}, answer=_answer(existing))
        rules.check_visit(to_struct(snapshot[self.visit] or {}, Visit), claim.today)
        budgets = {ref.id: to_struct(document, Budget) for ref in self.budgets if (document := snapshot[ref]) is not None}
        issued = rules.assemble(
            claim.ranked, budgets, id=claim.pack_ids[claim.consumer_id], visit=claim.visit, consumer_id=claim.consumer_id, at=claim.at
        )
        pack = to_document(issued.pack)
        return ChangeSet(
            increments={self.visit: {}} | {DocumentRef(BUDGETS, id): {"issued": 1} for id in issued.taken},
            inserts=[(PACKS, pack), *((COUPONS, to_document(coupon)) for coupon in issued.coupons)],
            events=[issued.event],
            answer=_answer(pack),
        )


def _answer(pack: Document) -> packs_pb2.ClaimPackResponse:
    answer: MessageDocument = project(pack, packs_pb2.Pack.DESCRIPTOR)
    return packs_pb2.ClaimPackResponse(pack=answer)
