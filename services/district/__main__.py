"""The district service: `python -m services.district`."""

from quanyu.district.v1 import campaigns_pb2_grpc, packs_pb2_grpc, places_pb2_grpc, wallet_pb2_grpc
from services.district import events
from services.district.campaigns import repository as campaigns
from services.district.campaigns import rpc as campaigns_rpc
from services.district.matching.repository import AffinityRepository
from services.district.packs.consents import ConsentClient
from services.district.packs.repository import BrandRanker, PackRepository
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
    """Builds the repositories, then the servicers; places finds unspent coupons through packs."""
    database = runtime.database
    persons, affinity = PersonProjection(database), AffinityRepository(database)
    districts, venues, visits = (
        places.build_district_collection(database),
        places.VenueRepository(database),
        places.VisitRepository(database),
    )
    budgets, coupons, packs = campaigns.BudgetRepository(database), CouponRepository(database), PackRepository(database)
    locks, ranker = CouponLockRepository(database, coupons), BrandRanker(budgets, affinity, ConsentClient(runtime.channels))

    async def find_unspent(visit: Visit, person: Person, session: Session) -> tuple[PackedCoupon, ...]:
        return await packs.find_unspent(coupons, visit, person, runtime.clock(), session)

    return ServiceDefinition(
        servicers=[
            (places_pb2_grpc.add_PlaceServiceServicer_to_server, PlaceServicer(runtime, persons, visits, find_unspent)),
            (campaigns_pb2_grpc.add_CampaignServiceServicer_to_server, campaigns_rpc.CampaignServicer(runtime, budgets)),
            (wallet_pb2_grpc.add_WalletServiceServicer_to_server, WalletServicer(runtime, persons, venues, coupons, locks)),
            (packs_pb2_grpc.add_PackServiceServicer_to_server, PackServicer(runtime, persons, visits, ranker, packs)),
        ],
        collections=[
            districts,
            venues,
            visits,
            campaigns.build_campaign_collection(database),
            budgets,
            coupons,
            locks,
            packs,
            persons.links,
        ],
        events=events.build_handlers(runtime.scopes, persons, affinity),
    )


if __name__ == "__main__":
    main("district", define)
