"""Chapters of the story: a district visit, messages from the guide, an urgent need, the order, and what it changed."""

from services.local.story.outcome import check_relation, check_scorecards, fetch_scorecards
from services.local.story.outreach import reach_out
from services.local.story.purchase import buy
from services.local.story.story import Story
from services.local.story.urgent_need import search_and_hold
from services.local.story.visit import visit_district


async def play_chapters(story: Story) -> None:
    """Plays all chapters in order."""
    coupons = await visit_district(story)
    await reach_out(story)
    story.choose_wish(coupons)
    hold = await search_and_hold(story)
    before = await fetch_scorecards(story)
    order_id = await buy(story, hold, coupons)
    await check_relation(story, order_id)
    await check_scorecards(story, before)
