"""The first walk: into the district, home with an empty hand, a stain at the hotel, a shirt before ten."""

from datetime import datetime
from typing import Any

from services.kit.calendar import moment
from services.local.story import wording
from services.local.story.cast import Cast
from services.local.story.stage import ZONE, Answer, Stage, Surprise
from services.local.story.timeline import Timeline

OUTREACHES_MAX = 10


class Walk:
    """One walk with one cast. Every step asserts what it tells, so that a story that ends was true."""

    def __init__(self, stage: Stage, cast: Cast, timeline: Timeline) -> None:
        self.stage, self.cast, self.timeline = stage, cast, timeline
        self.served_by = cast.store_id
        self.goods_brand_id, self.wish = next(iter(cast.wishes.items()))

    async def play(self) -> None:
        """All chapters in order."""
        coupons = await self._visit()
        await self._out_of_store()
        self._wish_for(coupons)
        hold = await self._stain()
        before = await self._scorecards()
        order_id = await self._buy(hold, coupons)
        await self._asset(order_id)
        await self._counted_once(before)

    def _wish_for(self, coupons: list[Answer]) -> None:
        """What she needs is of a brand whose coupon she has, where the cast allows it."""
        wishes = self.cast.wishes
        self.goods_brand_id = next((id for each in coupons if (id := each["brand"]["id"]) in wishes), self.goods_brand_id)
        self.wish = wishes[self.goods_brand_id]

    def _key(self, what: str) -> str:
        return f"story:{self.stage.key}:{what}"

    def _tell(self, who: str, what: str, why: str = "", *, refused: bool = False) -> None:
        self.timeline.tell(self.stage.at, who, what, why, refused=refused)

    # 1 ---------------------------------------------------------------------------------------------------------------

    async def _visit(self) -> list[Answer]:
        """Entering, the pack, the same pack again; the coupons."""
        cast, stage = self.cast, self.stage
        self.timeline.chapter("1  The district: one pack, picked for her 商圈集合券包")
        if cast.spent:
            await self._friend_takes_the_last(cast)
        stage.clock(19, 30)
        entered = await self._enter(cast.consumer.subject)
        self._tell(cast.consumer.called, f"enters {wording.name(entered['district'])}", "the geofence noticed her phone: an open visit")
        stage.clock(19, 31)
        pack = await self._claim("pack", entered["id"])
        self._tell(
            cast.consumer.called, f"gets one pack of {len(pack['entries'])} coupons", "her own purchases decide, budgets and consent allow"
        )
        for entry in pack["entries"]:
            self._tell(
                f"  {wording.name(entry['brand'])}",
                f"{wording.name(entry)}, {wording.money(entry['value'])} off",
                wording.reason(entry["reason"]),
            )
        for declined in pack["declined"]:
            self._tell(
                f"  {wording.name(declined['brand'])}",
                declined["reason"].replace("_", " ").lower(),
                wording.DECLINED[declined["reason"]],
                refused=True,
            )
        due = {(cast.spent, "BUDGET_SPENT"), (cast.unconsented, "CONSENT_MISSING")} - {("", "BUDGET_SPENT"), ("", "CONSENT_MISSING")}
        if missing := due - {(declined["brand"]["id"], declined["reason"]) for declined in pack["declined"]}:
            raise Surprise(f"the pack does not say {sorted(missing)}")
        stage.clock(19, 50)
        again = await self._claim("pack again", entered["id"])
        if again["id"] != pack["id"] or again["entries"] != pack["entries"]:
            raise Surprise("asked again the same day, another pack was given")
        self._tell(cast.consumer.called, "asks again and gets the same pack", "one pack a day, whatever the request")
        stage.clock(20, 40)
        left = await stage.done(cast.consumer, "leave_district", visitId=entered["id"], idempotencyKey=self._key("leave"))
        self._tell(
            cast.consumer.called,
            "leaves the district, nothing bought",
            f"the visit is {left['visit']['state'].lower()}: a fact others act on",
        )
        coupons: list[Answer] = pack["entries"]
        return coupons

    async def _friend_takes_the_last(self, cast: Cast) -> None:
        """The friend's pack spends a budget of one coupon, if an earlier story has not."""
        self.stage.clock(19, 10)
        visit = await self._enter(cast.friend.subject)
        result = await self.stage.act(cast.friend, "claim_pack", visitId=visit["id"], idempotencyKey=self._key("friend's pack"))
        got = [entry["brand"]["id"] for entry in result.get("pack", {}).get("entries", ())]
        if cast.spent in got:
            self._tell(cast.friend.called, "takes the last coupon of a brand", "its budget was one coupon")

    async def _enter(self, consumer_id: str) -> Answer:
        person = self.cast.consumer if consumer_id == self.cast.consumer.subject else self.cast.friend
        result = await self.stage.done(
            person,
            "enter_district",
            districtId=self.cast.district_id,
            touchpoint="MINI_PROGRAM",
            position=self.cast.inside,
            idempotencyKey=self._key(f"enter {consumer_id}"),
        )
        visit: Answer = result["visit"]
        return visit

    async def _claim(self, key: str, visit_id: str) -> Answer:
        result = await self.stage.done(self.cast.consumer, "claim_pack", visitId=visit_id, idempotencyKey=self._key(key))
        pack: Answer = result["pack"]
        return pack

    # 2 ---------------------------------------------------------------------------------------------------------------

    async def _out_of_store(self) -> None:
        """The guide's task, born from the leaving; the message; consent and cap."""
        cast, stage = self.cast, self.stage
        self.timeline.chapter("2  Out of the store: her guide may reach her 离店运营")
        stage.clock(20, 45)

        async def born() -> Answer | None:
            staff = (await stage.ask(cast.guide, "guide_tasks", state="OPEN", first=50))["viewer"]["staff"]
            return next((task for task in staff["tasks"]["nodes"] if task["consumer"]["id"] == cast.consumer.subject), None)

        task = await stage.until("the guide's task", born)
        self._tell(
            cast.guide.called,
            f"has a task: {task['kind'].replace('_', ' ').lower()}",
            "she left with an unspent coupon of the guide's brand",
        )
        seen = await stage.done(cast.guide, "acknowledge_task", taskId=task["id"], idempotencyKey=self._key("acknowledge"))
        self._tell(cast.guide.called, f"acknowledges it ({seen['task']['state'].lower()})")
        stage.clock(20, 46)
        for number in range(OUTREACHES_MAX):
            result = await self._write(cast.consumer.subject, task["id"] if number == 0 else None, number)
            if "code" in result:
                if not number:
                    raise Surprise(f"the first message is refused: {result['message']}")
                self._tell(cast.guide.called, f"tries once more: {result['message']}", result["code"], refused=True)
                break
            self._tell(
                cast.guide.called,
                "writes to her" if not number else "writes again",
                f"she consented; {result['remaining']} left of the cap",
            )
        else:
            raise Surprise("no frequency cap was met")
        refused = await self._write(cast.friend.subject, None, 99)
        if "code" not in refused and cast.last_of:
            raise Surprise("a message to somebody who is not the guide's client was sent")
        if "code" in refused:
            self._tell(cast.guide.called, f"writes to {cast.friend.called}: {refused['message']}", refused["code"], refused=True)
        stage.clock(20, 50)
        inbox = (await stage.ask(cast.consumer, "my_inbox", first=5))["viewer"]["consumer"]["inbox"]
        latest = inbox["nodes"][-1]
        writer = (latest["staff"] or {}).get("name") or "somebody"
        self._tell(cast.consumer.called, f"reads: “{latest['text']}”", f"{writer} wrote; {inbox['unread']} unread")

    async def _write(self, consumer_id: str, task_id: str | None, number: int) -> Answer:
        return await self.stage.act(
            self.cast.guide,
            "send_outreach",
            consumerId=consumer_id,
            brandId=self.cast.brand_id,
            taskId=task_id,
            text="今天逛得开心吗？您的券两周内都可用，需要什么告诉我。",
            idempotencyKey=self._key(f"write {consumer_id} {number}"),
        )

    # 3 ---------------------------------------------------------------------------------------------------------------

    async def _stain(self) -> Answer:
        """The search at the hotel, the hold, and what the second consumer is told."""
        cast, stage = self.cast, self.stage
        self.timeline.chapter("3  The stain: what can be in her hands tonight 随时随地买得到")
        stage.clock(21, 40)
        size = "".join(f", {each['name']} {each['value']}" for each in cast.attributes)
        found = await self._promises()
        self._tell(cast.consumer.called, f"at the hotel: “{self.wish}{size}, tonight”", f"{len(found['promises'])} promises near by")
        if not found["promises"]:
            raise Surprise("nothing can be had near by")
        for promise in found["promises"][:4]:
            self._tell(
                f"  {promise['storeName']}",
                wording.promise(promise),
                f"{promise['availability'].replace('_', ' ').lower()}, {wording.money(promise['price'])}",
            )
        # Several brands may call a thing the same; of the one that is meant she has a coupon.
        chosen = min(found["promises"], key=lambda each: each["brand"]["id"] != self.goods_brand_id)
        self.served_by, self.goods_brand_id = chosen["storeId"], chosen["brand"]["id"]
        held = await stage.done(cast.consumer, "hold_promise", **self._choice(chosen, "hold"))
        until = held["hold"]["expiresAt"]
        self._tell(cast.consumer.called, f"holds it at {chosen['storeName']}", f"kept back until {wording.clock(until)}")
        if cast.last_of:
            await self._too_late_for_a_friend(chosen)
        hold: Answer = held["hold"]
        return hold

    async def _too_late_for_a_friend(self, chosen: Answer) -> None:
        cast, stage = self.cast, self.stage
        stage.clock(21, 41)
        left = await self._promises(cast.friend.subject)
        gone = [each for each in left["unavailable"] if each["storeId"] == cast.store_id and each["obstacle"] == "HELD"]
        if not gone:
            raise Surprise("a second search does not say that the last one is held")
        self._tell(
            cast.friend.called,
            f"searches the same: the last one at {gone[0]['storeName']} is held",
            f"until {wording.clock(gone[0]['until'])}",
            refused=True,
        )
        refused = await stage.act(cast.friend, "hold_promise", **self._choice(chosen, "friend's hold"))
        if refused.get("__typename") != "OutOfStock":
            raise Surprise("the last one was held twice")
        self._tell(cast.friend.called, f"tries to hold it all the same: {refused['message']}", refused["code"], refused=True)

    async def _promises(self, consumer_id: str = "") -> Answer:
        person = self.cast.friend if consumer_id == self.cast.friend.subject else self.cast.consumer
        data = await self.stage.ask(
            person,
            "promises",
            near=self.cast.hotel,
            text=self.wish,
            attributes=self.cast.attributes,
            neededBy=self._tonight(),
            first=20,
        )
        found: Answer = data["promises"]
        return found

    def _choice(self, promise: Answer, key: str) -> dict[str, Any]:
        return {
            "variantId": promise["variantId"],
            "storeId": promise["storeId"],
            "quantity": 1,
            "method": promise["method"],
            "destination": self.cast.hotel,
            "neededBy": self._tonight(),
            "idempotencyKey": self._key(key),
        }

    def _tonight(self) -> str:
        return (moment(self.stage.day, 23 * 60 + 30, ZONE)).isoformat()

    # 4 ---------------------------------------------------------------------------------------------------------------

    async def _buy(self, hold: Answer, coupons: list[Answer]) -> str:
        """The order with one of the coupons, paid once however often it is asked, and to whom it is credited."""
        cast, stage = self.cast, self.stage
        self.timeline.chapter("4  The order: paid once, credited once")
        stage.clock(21, 43)
        placed = await self._place(hold, coupons)
        order = placed["order"]
        self._tell(
            cast.consumer.called,
            f"orders for {wording.money(order['total'])}, {wording.money(order['discount'])} off by coupon",
            f"scenario {order['scenario'].lower()}: {order['scenarioBasis']['rule'].lower()}",
        )
        stage.clock(21, 44)
        answers = [
            await stage.done(
                cast.consumer, "pay_order", orderId=order["id"], method="SANDBOX", sandboxToken="approve", idempotencyKey=self._key("pay")
            )
            for _ in range(3)
        ]
        if any(answer != answers[0] for answer in answers) or answers[0]["order"]["state"] != "PAID":
            raise Surprise("paying three times with one key gave different answers")
        self._tell(
            cast.consumer.called,
            f"pays {wording.money(answers[0]['order']['total'])}, three times with one key",
            "one payment: every retry hears the first answer",
        )

        async def credited() -> Answer | None:
            found: Answer | None = (await stage.ask(cast.operator, "order_credit", id=order["id"]))["order"]["credit"]
            return found

        credit = await stage.until("the credit", credited)
        guide = credit["staff"]["name"] or credit["staff"]["id"] if credit["staff"] else "nobody"
        basis = (credit["basis"] or "").lower()
        self._tell("organization", f"credits {wording.name(credit['store'])} and guide {guide}", f"decided by {basis or 'the store'}")
        order_id: str = order["id"]
        return order_id

    async def _place(self, hold: Answer, coupons: list[Answer]) -> Answer:
        """With the coupon of the goods' brand, or the first that this order may spend; without one if none applies."""
        own = sorted(coupons, key=lambda entry: entry["brand"]["id"] != self.goods_brand_id)
        for coupon in [*own, None]:
            result = await self.stage.act(
                self.cast.consumer,
                "place_order",
                holdIds=[hold["id"]],
                couponIds=[coupon["couponId"]] if coupon else [],
                touchpoint="MINI_PROGRAM",
                neededBy=self._tonight(),
                destination={"address": "示例酒店·三里屯 1208", "recipient": "L.", "phone": "+8619900008888", "position": self.cast.hotel},
                idempotencyKey=self._key(f"order {coupon['couponId'] if coupon else ''}"),
            )
            if "code" not in result:
                return result
            if result["__typename"] != "CouponRefused" or self.cast.last_of:
                raise Surprise(f"the order is refused: {result['message']} ({result['code']})")
            self._tell(f"  {wording.name(coupon['brand']) if coupon else ''}", result["message"], result["code"], refused=True)
        raise Surprise("no order could be placed")

    # 5, 6 ------------------------------------------------------------------------------------------------------------

    async def _asset(self, order_id: str) -> None:
        """The stage of the relation and the events that moved it."""
        cast, stage = self.cast, self.stage
        self.timeline.chapter("5  The consumer asset: her stage moved, and by what 消费者资产")

        async def counted() -> Answer | None:
            relation: Answer | None = (
                await stage.ask(cast.operator, "consumer_asset", consumerId=cast.consumer.subject, brandId=cast.brand_id, first=20)
            )["relation"]
            refs = [node["ref"] for node in relation["interactions"]["nodes"]] if relation else []
            return relation if order_id in refs else None

        relation = await stage.until("the relation", counted)
        newest = relation["transitions"]["nodes"][0]
        if cast.last_of and (newest["toStage"], newest["cause"]["ref"]) != ("LOYALTY", order_id):
            raise Surprise("this order did not move her stage")
        self._tell(
            cast.operator.called,
            f"sees stage {relation['stage']}, closeness {relation['closeness']:.0f} of 100",
            f"{relation['orderCount']} orders",
        )
        for transition in reversed(relation["transitions"]["nodes"]):
            at = datetime.fromisoformat(transition["at"])
            self._tell(
                f"  {at:%Y-%m-%d}",
                f"{transition['fromStage'] or 'nobody'} → {transition['toStage']}",
                wording.cause(transition),
            )
        for event in reversed(relation["interactions"]["nodes"][:6]):
            at = datetime.fromisoformat(event["at"])
            self._tell(f"  {at:%Y-%m-%d}", event["kind"].replace("_", " ").lower(), event["ref"] or "")

    async def _scorecards(self) -> dict[str, Answer]:
        """The day's scorecards of the store, its region and the brand of the goods, as their operators see them."""
        cast, day = self.cast, str(self.stage.day)
        subjects = {
            "store": (cast.operator, {"storeId": self.served_by}),
            "region": (cast.operator, {"unitId": cast.region_unit_id}),
            "brand": (cast.goods_operator, {"brandId": self.goods_brand_id}),
        }
        return {
            name: (await self.stage.ask(person, "scorecard", **subject, fromDay=day, untilDay=day))["scorecard"]
            for name, (person, subject) in subjects.items()
        }

    async def _counted_once(self, before: dict[str, Answer]) -> None:
        """The order on each scorecard: once, online, under its scenario, fulfilled by the store."""
        self.timeline.chapter("6  The scorecards: counted once, taken online, fulfilled by the store")
        for name, card in (await self._scorecards()).items():
            gained = {
                what: count - wording.counts(before[name], self.served_by)[what]
                for what, count in wording.counts(card, self.served_by).items()
            }
            if gained != {"orders": 1, "online": 1, "offline": 0, "urgent need": 1, "by the store": 1}:
                raise Surprise(f"the scorecard of the {name} gained {gained}")
            fulfilled = ", ".join(f"{wording.name(each['store'])} {each['total']['orders']}" for each in card["byStore"][:3])
            self._tell(
                f"scorecard of the {name}",
                f"+1 order: {wording.figures(card['total'])}, online {card['online']['orders']}, offline {card['offline']['orders']}",
                f"scenario urgent_need; fulfilled by {fulfilled}",
            )
            for attainment in card["attainments"]:
                ratios = f"online {attainment['onlineRatio']:.2%}, offline {attainment['offlineRatio']:.2%}"
                self._tell(
                    "  target of the month", f"{attainment['totalRatio']:.2%} of {wording.money(attainment['target']['total'])}", ratios
                )
