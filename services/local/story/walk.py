"""What the chapters of a walk share: who acts where, what became of it so far, and how it is told."""

from services.local.story.cast import Cast
from services.local.story.stage import Answer, Stage
from services.local.story.timeline import Timeline


class Walk:
    """One walk with one cast. Every step asserts what it tells, so that a story that ends was true."""

    def __init__(self, stage: Stage, cast: Cast, timeline: Timeline) -> None:
        self.stage, self.cast, self.timeline = stage, cast, timeline
        self.served_by = cast.store_id
        self.goods_brand_id, self.wish = next(iter(cast.wishes.items()))

    def wish_for(self, coupons: list[Answer]) -> None:
        """What she needs is of a brand whose coupon she has, where the cast allows it."""
        wishes = self.cast.wishes
        self.goods_brand_id = next((id for each in coupons if (id := each["brand"]["id"]) in wishes), self.goods_brand_id)
        self.wish = wishes[self.goods_brand_id]

    def key(self, what: str) -> str:
        """An idempotency key of this walk."""
        return f"story:{self.stage.key}:{what}"

    def tell(self, who: str, what: str, why: str = "", *, refused: bool = False) -> None:
        """One moment of the timeline, at the story's clock."""
        self.timeline.tell(self.stage.at, who, what, why, refused=refused)
