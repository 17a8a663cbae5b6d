"""The district's process: its use cases put into the runtime."""

from quanyu.district.v1 import campaigns_pb2_grpc, packs_pb2_grpc, places_pb2_grpc, wallet_pb2_grpc
from services.district import events
from services.district.campaigns import repository as campaigns
from services.district.campaigns import rpc as campaigns_rpc
from services.district.matching.repository import AffinityRepository
from services.district.packs.consents import ConsentClient
from services.district.packs.repository import PackRepository, Ranking
from services.district.packs.rpc import PackServicer
from services.district.places import repository as places
from services.district.places.rpc import PlaceServicer
from services.district.places.rules import PackedCoupon, Visit
from services.district.wallet.repository import CouponLockRepository, CouponRepository
from services.district.wallet.rpc import WalletServicer
from services.kit.mongo.client import Session
from services.kit.projections.persons import Person, PersonProjection
from services.kit.runtime.process import main
from services.kit.runtime.runtime import Runtime, ServiceDefinition


def define(runtime: Runtime) -> ServiceDefinition:
    """Every use case of the district over one set of collections."""
    database = runtime.database
    persons, affinity = PersonProjection(database), AffinityRepository(database)
    districts, venues, visits = places.district_collection(database), places.VenueRepository(database), places.VisitRepository(database)
    budgets, coupons, packs = campaigns.BudgetRepository(database), CouponRepository(database), PackRepository(database)
    locks, ranking = CouponLockRepository(database, coupons), Ranking(budgets, affinity, ConsentClient(runtime.channels))

    async def unspent(visit: Visit, person: Person, session: Session) -> tuple[PackedCoupon, ...]:
        return await packs.unspent(coupons, visit, person, runtime.clock(), session)

    return ServiceDefinition(
        servicers=[
            (places_pb2_grpc.add_PlaceServiceServicer_to_server, PlaceServicer(runtime, persons, visits, unspent)),
            (campaigns_pb2_grpc.add_CampaignServiceServicer_to_server, campaigns_rpc.CampaignServicer(runtime, budgets)),
            (wallet_pb2_grpc.add_WalletServiceServicer_to_server, WalletServicer(runtime, persons, venues, coupons, locks)),
            (packs_pb2_grpc.add_PackServiceServicer_to_server, PackServicer(runtime, persons, visits, ranking, packs)),
        ],
        tables=[districts, venues, visits, campaigns.campaign_collection(database), budgets, coupons, locks, packs, persons.table],
        events=events.handlers(runtime.scopes, persons, affinity),
    )


if __name__ == "__main__":
    main("district", define)
