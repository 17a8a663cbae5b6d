"""The collection of packs, the order of brands for a person, and the one command of the group_commit that issues a pack: budgets, pack and
coupons together or not at all."""

from collections.abc import Mapping
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
from services.district.wallet.rules import packed, state_at
from services.kit.enums import ScopeKind
from services.kit.mongo.client import Database, Document, Session, Shaped
from services.kit.mongo.codec import as_document, as_struct, shaped
from services.kit.mongo.scoped_collection import ScopedCollection
from services.kit.projections.persons import Person
from services.kit.transactions.group_commit import ChangeSet, DocumentRef, GroupCommit, Snapshot
from services.kit.transactions.idempotency import IdempotencyKey

PACKS, VISITS = "packs", "visits"


class Claim(Struct, frozen=True):
    """A claim of the day's pack with all that a decision on it needs besides the counters."""

    consumer_id: str
    person: Person
    visit: Visit
    today: date
    at: datetime
    ranked: tuple[Candidate, ...] = ()

    @property
    def pack_ids(self) -> dict[str, str]:
        """The ids the day's pack may have: one for each id of the person."""
        day = date.fromisoformat(self.visit.day)
        return {id: rules.pack_id(id, self.visit.district_id, day) for id in sorted(self.person.ids)}


class Ranking:
    """Puts the brands whose campaigns run in a district into the order of one person's preference."""

    def __init__(self, budgets: BudgetRepository, affinity: AffinityRepository, consents: ConsentClient) -> None:
        self.budgets, self.affinity, self.consents = budgets, affinity, consents

    async def ranked(self, claim: Claim) -> tuple[Candidate, ...]:
        """The candidates for a claim, the best first; `Conflict` VISIT_OVER when the visit allows none."""
        rules.check_visit(claim.visit, claim.today)
        budgets = await self.budgets.running(claim.visit.district_id, claim.at)
        interests = await self.affinity.interests(claim.person.ids, {budget.brand_id for budget in budgets})
        seed = f"{claim.person.id}|{claim.visit.day}"
        brand_ids = matching.rank((budget.brand_id for budget in budgets), interests, claim.at, seed)
        granted = await self.consents.granted(claim.consumer_id, brand_ids)
        left: dict[str, tuple[Budget, ...]] = {}
        for budget in budgets:
            if budget.left > 0:
                left[budget.brand_id] = (*left.get(budget.brand_id, ()), budget)
        return tuple(
            Candidate(brand_id, rules.why(interests.get(brand_id), claim.at), left.get(brand_id, ()), brand_id in granted)
            for brand_id in brand_ids
        )


class PackRepository(ScopedCollection[Pack]):
    """Packs: each the consumer's alone."""

    def __init__(self, database: Database) -> None:
        super().__init__(
            database, PACKS, noun="PACK", struct=Pack, message=packs_pb2.Pack, scopes={ScopeKind.CONSUMER: "consumer_id"},
            indexes=[IndexModel([("consumer_id", ASCENDING), ("issued_at", DESCENDING), ("_id", ASCENDING)])],
        )  # fmt: skip

    async def stands(self, claim: Claim) -> bool:
        """Whether the person has the day's pack already; once they have, they always will."""
        return await self.collection.find_one({"_id": {"$in": list(claim.pack_ids.values())}}, {"_id": 1}) is not None

    async def unspent(
        self, coupons: CouponRepository, visit: Visit, person: Person, at: datetime, session: Session
    ) -> tuple[PackedCoupon, ...]:
        """The coupons of the pack of a visit's day that can be spent still, in the pack's order."""
        day = date.fromisoformat(visit.day)
        ids = [rules.pack_id(id, visit.district_id, day) for id in sorted(person.ids)]
        rows = await self.collection.find({"_id": {"$in": ids}}, {"entries.coupon_id": 1}, session=session).to_list(None)
        given = [entry["coupon_id"] for row in rows for entry in row["entries"]]
        standing = await coupons.standing(given, session)
        free = [standing[id] for id in given if id in standing and state_at(standing[id], at) is CouponState.ISSUED]
        return tuple(map(packed, free))

    async def issue(self, group_commit: GroupCommit, key: IdempotencyKey, claim: Claim) -> packs_pb2.ClaimPackResponse:
        """The day's pack: the one that stands, or a fresh one."""
        packs = [DocumentRef(PACKS, id) for id in claim.pack_ids.values()]
        visit = DocumentRef(VISITS, claim.visit.id)
        budgets = [DocumentRef(BUDGETS, id) for id in rules.shortlist(claim.ranked)]

        def decide(state: Snapshot) -> ChangeSet:
            for ref in packs:
                if (standing := state[ref]) is not None:
                    return ChangeSet(increments={}, answer=_answer(standing))
            return issue(claim, {ref.id: state[ref] for ref in budgets}, visit, state)

        return await group_commit.run(key, [*packs, visit, *budgets], decide, packs_pb2.ClaimPackResponse)


def issue(claim: Claim, standing: Mapping[str, Document | None], visit: DocumentRef, state: Snapshot) -> ChangeSet:
    """What issuing changes: a coupon off each budget, pack, coupons and event. The visit is held to as it was read: who leaves at the
    same moment leaves with the pack or without it."""
    rules.check_visit(as_struct(state[visit] or {}, Visit), claim.today)
    budgets = {id: as_struct(document, Budget) for id, document in standing.items() if document is not None}
    issued = rules.assemble(
        claim.ranked, budgets, id=claim.pack_ids[claim.consumer_id], visit=claim.visit, consumer_id=claim.consumer_id, at=claim.at
    )
    pack = as_document(issued.pack)
    return ChangeSet(
        increments={visit: {}} | {DocumentRef(BUDGETS, id): {"issued": 1} for id in issued.taken},
        inserts=[(PACKS, pack), *((COUPONS, as_document(coupon)) for coupon in issued.coupons)],
        events=[issued.event],
        answer=_answer(pack),
    )


def _answer(pack: Document) -> packs_pb2.ClaimPackResponse:
    answer: Shaped = shaped(pack, packs_pb2.Pack.DESCRIPTOR)
    return packs_pb2.ClaimPackResponse(pack=answer)
