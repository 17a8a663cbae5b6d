"""The district's process: its use cases put into the house."""

from quanyu.district.v1 import campaigns_pb2_grpc, packs_pb2_grpc, places_pb2_grpc, wallet_pb2_grpc
from services.district import facts
from services.district.campaigns import rpc as campaigns_rpc
from services.district.campaigns import store as campaigns
from services.district.matching.store import Affinity
from services.district.packs.consents import Consents
from services.district.packs.rpc import PackService
from services.district.packs.store import Packs, Ranking
from services.district.places import store as places
from services.district.places.rpc import Places
from services.district.places.rules import PackedCoupon, Visit
from services.district.wallet.rpc import Wallet
from services.district.wallet.store import Coupons, Locks
from services.kit.house import House, Wiring
from services.kit.mongo import Session
from services.kit.persons import Person, Persons
from services.kit.process import main


def wire(house: House) -> Wiring:
    """Every use case of the district over one set of collections."""
    database = house.database
    persons, affinity = Persons(database), Affinity(database)
    districts, venues, visits = places.districts(database), places.Venues(database), places.Visits(database)
    budgets, coupons, packs = campaigns.Budgets(database), Coupons(database), Packs(database)
    locks, ranking = Locks(database, coupons), Ranking(budgets, affinity, Consents(house.channels))

    async def unspent(visit: Visit, person: Person, session: Session) -> tuple[PackedCoupon, ...]:
        return await packs.unspent(coupons, visit, person, house.clock(), session)

    return Wiring(
        servicers=[
            (places_pb2_grpc.add_PlaceServiceServicer_to_server, Places(house, persons, visits, unspent)),
            (campaigns_pb2_grpc.add_CampaignServiceServicer_to_server, campaigns_rpc.Campaigns(house, budgets)),
            (wallet_pb2_grpc.add_WalletServiceServicer_to_server, Wallet(house, persons, venues, coupons, locks)),
            (packs_pb2_grpc.add_PackServiceServicer_to_server, PackService(house, persons, visits, ranking, packs)),
        ],
        tables=[districts, venues, visits, campaigns.campaigns(database), budgets, coupons, locks, packs, persons.table],
        facts=facts.handlers(house.scopes, persons, affinity),
    )


if __name__ == "__main__":
    main("district", wire)
