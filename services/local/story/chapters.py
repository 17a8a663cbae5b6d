"""The first walk: into the district, home with an empty hand, a stain at the hotel, a shirt before ten."""

from services.local.story.outcome import asset, counted_once, scorecards
from services.local.story.outreach import out_of_store
from services.local.story.purchase import buy
from services.local.story.stain import stain
from services.local.story.visit import visit
from services.local.story.walk import Walk


async def play(walk: Walk) -> None:
    """All chapters in order."""
    coupons = await visit(walk)
    await out_of_store(walk)
    walk.wish_for(coupons)
    hold = await stain(walk)
    before = await scorecards(walk)
    order_id = await buy(walk, hold, coupons)
    await asset(walk, order_id)
    await counted_once(walk, before)
