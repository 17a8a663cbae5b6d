"""Chapter 2: out of the store. Her guide has a task and writes to her, as often and as long as she lets the brand write."""

from services.local.story import wording
from services.local.story.stage import Answer, Surprise
from services.local.story.walk import Walk

OUTREACHES_MAX = 10
TEXTS = ("今天逛得开心吗？您的券两周内都可用，需要什么告诉我。", "您看过的那款我给您留意着，到货就说。", "明天店里有新品，路过随时来看看。")


async def out_of_store(walk: Walk) -> None:
    """The task, born from the leaving; the messages; cap, consent and binding, each with its refusal."""
    walk.timeline.chapter("2  Out of the store: her guide may reach her 离店运营")
    task = await _task(walk)
    sent = await _until_the_cap(walk, task["id"])
    await _not_without_consent(walk)
    await _read(walk, sent)
    if not walk.cast.friend_is_client:
        await _not_to_anybody(walk)


async def _task(walk: Walk) -> Answer:
    cast, stage = walk.cast, walk.stage
    stage.clock(20, 45)

    async def born() -> Answer | None:
        staff = (await stage.ask(cast.guide, "guide_tasks", state="OPEN", first=50))["viewer"]["staff"]
        return next((task for task in staff["tasks"]["nodes"] if task["consumer"]["id"] == cast.consumer.subject), None)

    task: Answer = await stage.until("the guide's task", born)
    walk.tell(cast.guide.called, f"has a task: {wording.words(task['kind'])}", "she left with an unspent coupon of the guide's brand")
    seen = await stage.done(cast.guide, "acknowledge_task", taskId=task["id"], idempotencyKey=walk.key("acknowledge"))
    walk.tell(cast.guide.called, "acknowledges it", f"the task is {seen['task']['state'].lower()}")
    return task


async def _until_the_cap(walk: Walk, task_id: str) -> list[str]:
    """Writes until the brand may not any more; what was written, in order."""
    guide = walk.cast.guide.called
    walk.stage.clock(20, 46)
    for number in range(OUTREACHES_MAX):
        text = TEXTS[number % len(TEXTS)]
        result = await _write(walk, walk.cast.consumer.subject, text, f"{number}", task_id if number == 0 else None)
        if "code" not in result:
            walk.tell(guide, "writes again" if number else "writes to her", f"she consented; {result['remaining']} left of the cap")
        elif number and result["code"] == "FREQUENCY_CAP":
            walk.tell(guide, f"tries once more: {result['message']}", result["code"], refused=True)
            return [TEXTS[earlier % len(TEXTS)] for earlier in range(number)]
        else:
            raise Surprise(f"message {number + 1} is refused: {result['message']} ({result['code']})")
    raise Surprise("no frequency cap was met")


async def _not_without_consent(walk: Walk) -> None:
    """She takes her consent back; it counts for the very next message."""
    cast, stage = walk.cast, walk.stage
    stage.clock(20, 48)
    await stage.done(
        cast.consumer,
        "set_consent",
        brandId=cast.brand_id,
        purpose="OUTREACH",
        granted=False,
        touchpoint="MINI_PROGRAM",
        idempotencyKey=walk.key("no more"),
    )
    walk.tell(cast.consumer.called, "lets the brand write no more", "her consent, taken back for this brand and purpose alone")
    await _refused(walk, cast.consumer.subject, "NO_CONSENT", "writes all the same")


async def _not_to_anybody(walk: Walk) -> None:
    walk.stage.clock(20, 52)
    await _refused(walk, walk.cast.friend.subject, "NOT_BOUND", f"writes to {walk.cast.friend.called}")


async def _refused(walk: Walk, consumer_id: str, code: str, told: str) -> None:
    result = await _write(walk, consumer_id, TEXTS[0], code)
    if result.get("code") != code:
        raise Surprise(f"a message that {code} is against was answered with {result.get('code', 'its sending')}")
    walk.tell(walk.cast.guide.called, f"{told}: {result['message']}", code, refused=True)


async def _read(walk: Walk, sent: list[str]) -> None:
    """The inbox, newest first."""
    cast, stage = walk.cast, walk.stage
    stage.clock(20, 50)
    inbox = (await stage.ask(cast.consumer, "my_inbox", first=5))["viewer"]["consumer"]["inbox"]
    latest = inbox["nodes"][0]
    if latest["text"] != sent[-1] or not latest["staff"] or latest["staff"]["id"] != cast.guide.subject or inbox["unread"] < len(sent):
        raise Surprise("her inbox does not begin with what her guide wrote last")
    walk.tell(cast.consumer.called, f"reads: “{latest['text']}”", f"{latest['staff']['name']} wrote it; {inbox['unread']} unread")


async def _write(walk: Walk, consumer_id: str, text: str, key: str, task_id: str | None = None) -> Answer:
    return await walk.stage.act(
        walk.cast.guide,
        "send_outreach",
        consumerId=consumer_id,
        brandId=walk.cast.brand_id,
        taskId=task_id,
        text=text,
        idempotencyKey=walk.key(f"write {consumer_id} {key}"),
    )
