"""The district's process: its use cases put into the runtime."""

from quanyu.district.v1 import campaigns_pb2_grpc, packs_pb2_grpc, places_pb2_grpc, wallet_pb2_grpc
from services.district import events
from services.district.campaigns import repository as campaigns
from services.district.campaigns import rpc as campaigns_rpc
from services.district.matching.repository import Affinity
from services.district.packs.consents import Consents
from services.district.packs.repository import Packs, Ranking
from services.district.packs.rpc import PackService
from services.district.places import repository as places
from services.district.places.rpc import Places
from services.district.places.rules import PackedCoupon, Visit
from services.district.wallet.repository import Coupons, Locks
from services.district.wallet.rpc import Wallet
from services.kit.mongo.client import Session
from services.kit.projections.persons import Person, PersonProjection
from services.kit.runtime.process import main
from services.kit.runtime.runtime import Runtime, ServiceDefinition


def define(runtime: Runtime) -> ServiceDefinition:
    """Every use case of the district over one set of collections."""
    database = runtime.database
    persons, affinity = PersonProjection(database), Affinity(database)
    districts, venues, visits = places.districts(database), places.Venues(database), places.Visits(database)
    budgets, coupons, packs = campaigns.Budgets(database), Coupons(database), Packs(database)
    locks, ranking = Locks(database, coupons), Ranking(budgets, affinity, Consents(runtime.channels))

    async def unspent(visit: Visit, person: Person, session: Session) -> tuple[PackedCoupon, ...]:
        return await packs.unspent(coupons, visit, person, runtime.clock(), session)

    return ServiceDefinition(
        servicers=[
            (places_pb2_grpc.add_PlaceServiceServicer_to_server, Places(runtime, persons, visits, unspent)),
            (campaigns_pb2_grpc.add_CampaignServiceServicer_to_server, campaigns_rpc.Campaigns(runtime, budgets)),
            (wallet_pb2_grpc.add_WalletServiceServicer_to_server, Wallet(runtime, persons, venues, coupons, locks)),
            (packs_pb2_grpc.add_PackServiceServicer_to_server, PackService(runtime, persons, visits, ranking, packs)),
        ],
        tables=[districts, venues, visits, campaigns.campaigns(database), budgets, coupons, locks, packs, persons.table],
        facts=events.handlers(runtime.scopes, persons, affinity),
    )


if __name__ == "__main__":
    main("district", define)
