"""Chapter 2, outreach: the guide gets a task and writes messages, within the frequency cap, the consent and the binding."""

from services.local.story import display
from services.local.story.gateway_client import Answer, StoryError
from services.local.story.story import Story

OUTREACHES_MAX = 10
TEXTS = ("今天逛得开心吗？您的券两周内都可用，需要什么告诉我。", "您看过的那款我给您留意着，到货就说。", "明天店里有新品，路过随时来看看。")


async def reach_out(story: Story) -> None:
    """Plays the task, the messages, and the refusals by frequency cap, consent and binding."""
    story.timeline.heading("2  Out of the store: messages from the guide 离店运营")
    task = await _acknowledge_task(story)
    sent = await _write_until_refused(story, task["id"])
    await _withdraw_consent(story)
    await _read_inbox(story, sent)
    if not story.setup.friend_is_client:
        await _write_to_stranger(story)


async def _acknowledge_task(story: Story) -> Answer:
    setup, gateway = story.setup, story.gateway
    gateway.set_clock(20, 45)

    async def find_task() -> Answer | None:
        staff = (await gateway.execute(setup.guide, "guide_tasks", state="OPEN", first=50))["viewer"]["staff"]
        return next((task for task in staff["tasks"]["nodes"] if task["consumer"]["id"] == setup.consumer.subject), None)

    task: Answer = await gateway.wait_for("the guide's task", find_task)
    story.report(
        setup.guide.name,
        f"gets a task: {display.format_label(task['kind'])}.",
        "Task rule: the consumer left the district with an unspent coupon of the guide's brand.",
    )
    seen = await gateway.mutate_or_fail(setup.guide, "acknowledge_task", taskId=task["id"], idempotencyKey=story.key("acknowledge"))
    story.report(setup.guide.name, "acknowledges the task.", f"Tasks: the state is now {seen['task']['state'].lower()}.")
    return task


async def _write_until_refused(story: Story, task_id: str) -> list[str]:
    """Writes until the frequency cap refuses a message; returns the sent texts in order."""
    guide = story.setup.guide.name
    story.gateway.set_clock(20, 46)
    for number in range(OUTREACHES_MAX):
        text = TEXTS[number % len(TEXTS)]
        result = await _write(story, story.setup.consumer.subject, text, f"{number}", task_id if number == 0 else None)
        if "code" not in result:
            story.report(
                guide,
                "writes another message." if number else "writes to the consumer.",
                f"Consent: granted. Frequency cap: {display.format_count(result['remaining'], 'message')} left.",
            )
        elif number and result["code"] == "FREQUENCY_CAP":
            story.report_refusal(guide, "tries to write once more.", result)
            return [TEXTS[earlier % len(TEXTS)] for earlier in range(number)]
        else:
            raise StoryError(f"message {number + 1} is refused: {result['message']} ({result['code']})")
    raise StoryError(f"{OUTREACHES_MAX} messages were sent without a refusal by the frequency cap")


async def _withdraw_consent(story: Story) -> None:
    """Withdraws the consent, which counts from the next message."""
    setup, gateway = story.setup, story.gateway
    gateway.set_clock(20, 48)
    await gateway.mutate_or_fail(
        setup.consumer,
        "set_consent",
        brandId=setup.brand_id,
        purpose="OUTREACH",
        granted=False,
        touchpoint="MINI_PROGRAM",
        idempotencyKey=story.key("no more"),
    )
    story.report(
        setup.consumer.name,
        "withdraws the consent to messages.",
        "Consent: withdrawn for this brand and this purpose only. It counts from the next message.",
    )
    await _expect_refusal(story, setup.consumer.subject, "NO_CONSENT", "tries to write again.")


async def _write_to_stranger(story: Story) -> None:
    story.gateway.set_clock(20, 52)
    friend = story.setup.friend
    await _expect_refusal(story, friend.subject, "NOT_BOUND", f"tries to write to {friend.name}, who is not a client.")


async def _expect_refusal(story: Story, consumer_id: str, code: str, action: str) -> None:
    result = await _write(story, consumer_id, TEXTS[0], code)
    if result.get("code") != code:
        raise StoryError(f"a message should be refused with {code}, but the answer is {result.get('code', 'that it was sent')}")
    story.report_refusal(story.setup.guide.name, action, result)


async def _read_inbox(story: Story, sent: list[str]) -> None:
    """Reads the inbox, newest message first."""
    setup, gateway = story.setup, story.gateway
    gateway.set_clock(20, 50)
    inbox = (await gateway.execute(setup.consumer, "my_inbox", first=5))["viewer"]["consumer"]["inbox"]
    latest = inbox["nodes"][0]
    if latest["text"] != sent[-1] or not latest["staff"] or latest["staff"]["id"] != setup.guide.subject or inbox["unread"] < len(sent):
        raise StoryError("the inbox does not begin with the guide's last message")
    story.report(
        setup.consumer.name,
        f"reads “{latest['text']}”",
        f"Inbox: {latest['staff']['name']} wrote it. {display.format_count(inbox['unread'], 'message')} unread.",
    )


async def _write(story: Story, consumer_id: str, text: str, key: str, task_id: str | None = None) -> Answer:
    return await story.gateway.mutate(
        story.setup.guide,
        "send_outreach",
        consumerId=consumer_id,
        brandId=story.setup.brand_id,
        taskId=task_id,
        text=text,
        idempotencyKey=story.key(f"write {consumer_id} {key}"),
    )
