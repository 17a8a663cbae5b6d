"""Setup of a story: the people, places and goods it uses."""

from collections.abc import Mapping

import grpc
from msgspec import Struct

from services.local.story.gateway_client import Person

Channels = Mapping[str, grpc.aio.Channel]


class StorySetup(Struct, frozen=True):
    """The people, places and goods of one world. Positions are WGS 84 points. An empty optional field skips the step that needs it."""

    consumer: Person
    friend: Person
    guide: Person
    manager: Person
    operator: Person
    brand_id: str
    wishes: dict[str, str]
    """Search texts by brand id, each priced high enough for a coupon. In a retailer's store the brand is not the store's own."""
    goods_operator: Person
    store_id: str
    region_org_unit_id: str
    district_id: str
    inside: dict[str, float]
    hotel: dict[str, float]
    attributes: list[dict[str, str]]
    last_of: str = ""
    """The variant of which this store has one piece left."""
    friend_is_client: bool = False
    """True if the guide is bound to the friend too. Otherwise a message to the friend is refused."""
    spent: str = ""
    """The brand whose campaign budget is used up."""
    unconsented: str = ""
    """The brand that the consumer has not allowed to match."""
