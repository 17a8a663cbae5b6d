"""Who may bind whom, and when a guide may write: bound, consented, within the cap, by day."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from services.kit.values import opening_hours
from services.kit.values.event import Event
from services.member.outreach.enums import Channel, Outcome, Reason

CAP = 3
CAP_WITHIN = timedelta(days=7)
QUIET_FROM_MINUTE = 22 * 60
QUIET_UNTIL_MINUTE = 8 * 60
DEFAULT_ZONE = "Asia/Shanghai"
ORDERED_WITHIN = timedelta(days=7)


class Staff(Struct, frozen=True):
    """A member of staff as organization told of them last."""

    id: str
    brand_id: str
    store_id: str
    active: bool
    version: int = 1


class Binding(Struct, frozen=True):
    """That a guide looks after a consumer for a brand."""

    id: str
    consumer_id: str
    brand_id: str
    staff_id: str
    store_id: str
    bound_at: datetime
    ended_at: datetime | None = None
    active: bool = True
    version: int = 1


class Outreach(Struct, frozen=True):
    """A message of a guide to a consumer; the text is ciphertext."""

    id: str
    consumer_id: str
    brand_id: str
    staff_id: str
    store_id: str
    ciphertext: bytes
    sent_at: datetime
    channel: Channel = Channel.IN_APP
    task_id: Annotated[str, Meta(max_length=100)] = ""
    outcome: Outcome = Outcome.SENT
    read_at: datetime | None = None
    order_id: str | None = None
    unread: bool = True
    version: int = 1


class Sent(Struct, frozen=True):
    """When a brand wrote to a consumer lately."""

    id: str
    times: list[datetime] = []
    version: int = 1


class Draft(Struct, frozen=True):
    """What a guide asks to be sent."""

    consumer_id: str
    brand_id: str
    staff_id: str
    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    task_id: Annotated[str, Meta(max_length=100)] = ""
    channel: Channel = Channel.IN_APP


class OrderedLine(Struct, frozen=True):
    brand_id: str


class Ordered(Struct, frozen=True):
    """What an outreach needs to know of a paid order."""

    order_id: str
    consumer_id: str
    paid_at: datetime
    seller_id: str = ""
    lines: list[OrderedLine] = []


class ImportedBinding(Struct, frozen=True):
    """A binding as it is asked for."""

    consumer_id: str = ""
    staff_id: str = ""
    bound_at: datetime | None = None


class ConsumerBound(Event, frozen=True):
    kind = "consumer_bound"
    consumer_id: str
    brand_id: str
    staff_id: str = ""
    store_id: str = ""
    bound_at: datetime | None = None
    ended_consumer_ids: tuple[str, ...] = ()
    """The person's other ids that were bound until now."""


class OutreachSent(Event, frozen=True):
    kind = "outreach_sent"
    outreach_id: str
    consumer_id: str
    brand_id: str
    staff_id: str
    store_id: str
    task_id: str = ""


class Binder(Struct, frozen=True):
    """Who binds: somebody for the whole brand, for one's store, or for oneself."""

    brand: bool = False
    stores: frozenset[str] = frozenset()
    staff: frozenset[str] = frozenset()

    def may_bind_to(self, staff: Staff) -> bool:
        """Whether consumers may be bound to this member of staff."""
        return self.brand or staff.store_id in self.stores or staff.id in self.staff

    def may_take_from(self, binding: Binding) -> bool:
        """Whether a consumer may be taken out of this binding: a guide only gives up their own, a manager moves within the store."""
        return self.brand or binding.store_id in self.stores or binding.staff_id in self.staff


def bind(
    id: str, asked: ImportedBinding, brand_id: str, staff: Staff | None, current: Sequence[Binding], binder: Binder, at: datetime
) -> tuple[Binding, list[Binding], list[ConsumerBound]]:
    """The binding that stands, the earlier ones that end, and the events. `current`: the person's active ones for this brand."""
    if staff is None or not staff.active or staff.brand_id != brand_id or not binder.may_bind_to(staff):
        raise NotFound(Reason.STAFF_UNKNOWN, "there is no such active member of staff of this brand for you")
    if not all(binder.may_take_from(binding) for binding in current):
        raise Conflict(Reason.BOUND_ELSEWHERE, "this consumer is bound to somebody else; ask the brand's operator to move them")
    if len(current) == 1 and (current[0].staff_id, current[0].store_id) == (staff.id, staff.store_id):
        return current[0], [], []
    new = Binding(id, asked.consumer_id, brand_id, staff.id, staff.store_id, asked.bound_at or at)
    told = ConsumerBound(new.consumer_id, brand_id, staff.id, staff.store_id, new.bound_at, _others(new.consumer_id, current))
    return new, [end(binding, at) for binding in current], [told]


def unknown(consumer_id: str) -> NotFound:
    """The brand does not know this consumer."""
    return NotFound(Reason.CONSUMER_NOT_FOUND, "there is no such consumer for you", consumer_id=consumer_id)


def bound_twice() -> Invalid:
    """A batch binds a person once."""
    return Invalid(Reason.INVALID_FIELD, "this person stands in an earlier row", field="consumer_id")


def unbind(
    consumer_id: str, brand_id: str, current: Sequence[Binding], binder: Binder, at: datetime
) -> tuple[list[Binding], list[ConsumerBound]]:
    """The bindings that end and the event; NOT_BOUND when there is none that the caller may end."""
    if not current or not all(binder.may_take_from(binding) for binding in current):
        raise NotFound(Reason.NOT_BOUND, "this consumer is bound to nobody of yours")
    told = ConsumerBound(consumer_id, brand_id, ended_consumer_ids=_others(consumer_id, current))
    return [end(binding, at) for binding in current], [told]


def _others(consumer_id: str, bindings: Iterable[Binding]) -> tuple[str, ...]:
    """The further ids under which the person is bound."""
    return tuple(sorted({binding.consumer_id for binding in bindings} - {consumer_id}))


def end(binding: Binding, at: datetime) -> Binding:
    return replace(binding, active=False, ended_at=at)


def current(bindings: Iterable[Binding]) -> Binding | None:
    """The binding that counts for a person: the latest of those that stand (people who were linked may have one each)."""
    return max((one for one in bindings if one.active), key=lambda one: (one.bound_at, one.id), default=None)


def legible(draft: Draft) -> Draft:
    """The draft, if there is something to read in it: a blank message would only use up the cap."""
    if not draft.text.strip():
        raise Invalid(Reason.INVALID_FIELD, "write something", field="text")
    return draft


def may_send(
    staff: Staff | None, staff_id: str, bindings: Sequence[Binding], consented: bool, times: Iterable[datetime], at: datetime, zone: str
) -> tuple[Binding, int]:
    """The binding in whose name a guide writes, and how many more may follow; a refusal says which rule is against it."""
    binding = current(bindings)
    if binding is None or binding.staff_id != staff_id:
        raise Denied(Reason.NOT_BOUND, "this consumer is not bound to you; ask the store's manager or the brand's operator to bind them")
    if staff is None or not staff.active or staff.brand_id != binding.brand_id:
        raise Denied(Reason.STAFF_UNKNOWN, "you are no active member of staff of this brand")
    if not consented:
        raise Conflict(Reason.NO_CONSENT, "the consumer did not allow the brand to write; they may allow it in their consents")
    recent = within_cap(times, at)
    if len(recent) >= CAP:
        free_at = (recent[-CAP] + CAP_WITHIN).isoformat()
        raise Exhausted(
            Reason.FREQUENCY_CAP,
            f"the brand wrote {CAP} times within {CAP_WITHIN.days} days; write when the first of them is older",
            free_at=free_at,
            limit=CAP,
        )
    if (until := quiet_until(at, zone)) is not None:
        raise Conflict(Reason.QUIET_HOURS, "not between 22:00 and 08:00; write in the morning", free_at=until.isoformat())
    return binding, CAP - len(recent) - 1


def within_cap(times: Iterable[datetime], at: datetime) -> list[datetime]:
    """The times that count against the cap at `at`, in order."""
    return sorted(time for time in times if time > at - CAP_WITHIN)


def quiet_until(at: datetime, zone: str) -> datetime | None:
    """When the quiet hours end; None while it is day."""
    return opening_hours.closes_at(QUIET_FROM_MINUTE, QUIET_UNTIL_MINUTE, at, zone)


def followed(outreaches: Iterable[Outreach], brand_ids: Iterable[str], order_id: str, paid_at: datetime) -> list[Outreach]:
    """For each brand of an order the latest message before it, within ORDERED_WITHIN, with the order as its outcome."""
    brands, latest = frozenset(brand_ids), dict[str, Outreach]()
    for outreach in sorted(outreaches, key=lambda one: (one.sent_at, one.id)):
        if outreach.brand_id in brands and paid_at - ORDERED_WITHIN <= outreach.sent_at <= paid_at:
            latest[outreach.brand_id] = outreach
    return [
        replace(outreach, outcome=Outcome.ORDERED, order_id=order_id)
        for outreach in latest.values()
        if outreach.outcome is not Outcome.ORDERED
    ]


def read(outreach: Outreach, at: datetime) -> Outreach:
    """The message once its receiver saw it; what is known further stays."""
    outcome = Outcome.READ if outreach.outcome is Outcome.SENT else outreach.outcome
    return replace(outreach, read_at=outreach.read_at or at, unread=False, outcome=outcome)
