"""Story state: what the chapters share, the progress so far, and the timeline they write to."""

from services.local.story.gateway_client import Answer, GatewayClient
from services.local.story.setup import StorySetup
from services.local.story.timeline import Timeline


class Story:
    """One run of the story. Every step checks what it reports, so that a finished story is true."""

    def __init__(self, gateway: GatewayClient, setup: StorySetup, timeline: Timeline) -> None:
        self.gateway, self.setup, self.timeline = gateway, setup, timeline
        self.serving_store_id = setup.store_id
        self.goods_brand_id, self.wish = next(iter(setup.wishes.items()))

    def choose_wish(self, coupons: list[Answer]) -> None:
        """Chooses the first wish whose brand gave a coupon; without one the first wish stays."""
        wishes = self.setup.wishes
        self.goods_brand_id = next((id for each in coupons if (id := each["brand"]["id"]) in wishes), self.goods_brand_id)
        self.wish = wishes[self.goods_brand_id]

    def key(self, step: str) -> str:
        """Returns the idempotency key of a step of this story."""
        return f"story:{self.gateway.key}:{step}"

    def report(self, actor: str, action: str, reason: str = "", *, refused: bool = False) -> None:
        """Adds an entry at the story's clock."""
        self.timeline.add(self.gateway.at, actor, action, reason, refused=refused)

    def report_refusal(self, actor: str, action: str, refusal: Answer) -> None:
        """Adds a refused entry with the code and the message of the refusal."""
        self.report(actor, action, f"Refused with {refusal['code']}: {refusal['message']}", refused=True)

    def detail(self, subject: str, text: str, reason: str = "", *, refused: bool = False) -> None:
        """Adds a line that belongs to the entry before it."""
        self.timeline.add(self.gateway.at, subject, text, reason, refused=refused, is_detail=True)
