"""Who acts in the walk, where, and what is looked for."""

from collections.abc import Mapping

import grpc
from msgspec import Struct

from services.local.story.stage import Person

Channels = Mapping[str, grpc.aio.Channel]


class Cast(Struct, frozen=True):
    """One world's cast. Places are WGS 84 points; of the brands `spent` and `unconsented` a refusal is due, empty: of none."""

    consumer: Person
    friend: Person
    guide: Person
    manager: Person
    operator: Person
    brand_id: str
    wishes: dict[str, str]
    """What is looked for, by its brand, dear enough for a coupon; she looks for the first whose brand's coupon she has. In a retailer's
    store it is not the store's brand."""
    goods_operator: Person
    store_id: str
    region_unit_id: str
    district_id: str
    inside: dict[str, float]
    hotel: dict[str, float]
    attributes: list[dict[str, str]]
    last_of: str = ""
    """The variant of which this store has only one; empty: there are more near by."""
    friend_is_client: bool = False
    """Whether the guide looks after the friend too; otherwise the guide may not write to the friend."""
    spent: str = ""
    unconsented: str = ""
