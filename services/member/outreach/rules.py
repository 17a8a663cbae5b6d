"""Rules of bindings and outreach: who may bind a consumer, and when a guide may write.

A guide writes only to bound consumers who consented, within the frequency cap, and outside quiet hours.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace

from services.kit.errors import Conflict, Denied, Exhausted, Invalid, NotFound
from services.kit.values import opening_hours
from services.kit.values.event import Event
from services.member.outreach.enums import Channel, Outcome, Reason

CAP_MESSAGES_MAX = 3
"""A brand sends a person at most this many messages within CAP_WINDOW."""
CAP_WINDOW = timedelta(days=7)
"""The frequency cap counts the messages of this time."""
QUIET_FROM_MINUTE = 22 * 60
"""Quiet hours begin at this minute of the store's day."""
QUIET_UNTIL_MINUTE = 8 * 60
"""Quiet hours end at this minute of the store's day."""
DEFAULT_ZONE = "Asia/Shanghai"
"""Quiet hours follow this time zone if the store's zone is unknown."""
CREDIT_WINDOW = timedelta(days=7)
"""An order is the outcome of a message sent at most this long before it."""


class Staff(Struct, frozen=True):
    """A member of staff as of the latest StaffChanged event."""

    id: str
    brand_id: str
    store_id: str
    active: bool
    version: int = 1


class Binding(Struct, frozen=True):
    """The binding of a consumer to a guide of a brand."""

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


class OutreachCap(Struct, frozen=True):
    """The times of a brand's recent messages to a consumer."""

    id: str
    times: list[datetime] = []
    version: int = 1


class Draft(Struct, frozen=True):
    """A message that a guide wants to send."""

    consumer_id: str
    brand_id: str
    staff_id: str
    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    task_id: Annotated[str, Meta(max_length=100)] = ""
    channel: Channel = Channel.IN_APP


class PaidOrderLine(Struct, frozen=True):
    """A line of a paid order."""

    brand_id: str


class PaidOrder(Struct, frozen=True):
    """The fields of a paid order that decide the outcome of messages."""

    order_id: str
    consumer_id: str
    paid_at: datetime
    seller_id: str = ""
    lines: list[PaidOrderLine] = []


class BindingRequest(Struct, frozen=True):
    """A binding to make."""

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
    """The person's other consumer ids whose bindings ended."""


class OutreachSent(Event, frozen=True):
    kind = "outreach_sent"
    outreach_id: str
    consumer_id: str
    brand_id: str
    staff_id: str
    store_id: str
    task_id: str = ""


class BindingAuthority(Struct, frozen=True):
    """The caller's authority over bindings: for the whole brand, for some stores, or for some staff."""

    brand: bool = False
    stores: frozenset[str] = frozenset()
    staff: frozenset[str] = frozenset()

    def can_bind_to(self, staff: Staff) -> bool:
        """True if the caller may bind consumers to this member of staff."""
        return self.brand or staff.store_id in self.stores or staff.id in self.staff

    def can_take_from(self, binding: Binding) -> bool:
        """True if the caller may end this binding: a guide ends only their own, a store manager those of the store."""
        return self.brand or binding.store_id in self.stores or binding.staff_id in self.staff


def bind(
    id: str,
    request: BindingRequest,
    brand_id: str,
    staff: Staff | None,
    current: Sequence[Binding],
    authority: BindingAuthority,
    at: datetime,
) -> tuple[Binding, list[Binding], list[ConsumerBound]]:
    """Returns the active binding, the bindings that end, and the events. `current` has the person's active bindings to this brand.

    Raises `NotFound` (STAFF_UNKNOWN) or `Conflict` (BOUND_ELSEWHERE).
    """
    if staff is None or not staff.active or staff.brand_id != brand_id or not authority.can_bind_to(staff):
        message = "No such active member of staff of this brand, or you may not bind to them. Check `staffId`."
        raise NotFound(Reason.STAFF_UNKNOWN, message)
    if not all(authority.can_take_from(binding) for binding in current):
        message = "This consumer is bound to another guide. Ask the brand's operator to move the consumer."
        raise Conflict(Reason.BOUND_ELSEWHERE, message)
    if len(current) == 1 and (current[0].staff_id, current[0].store_id) == (staff.id, staff.store_id):
        return current[0], [], []
    new = Binding(id, request.consumer_id, brand_id, staff.id, staff.store_id, request.bound_at or at)
    event = ConsumerBound(new.consumer_id, brand_id, staff.id, staff.store_id, new.bound_at, _list_other_ids(new.consumer_id, current))
    return new, [end(binding, at) for binding in current], [event]


def consumer_not_found(consumer_id: str) -> NotFound:
    """Returns the refusal for a consumer that the brand does not know."""
    return NotFound(Reason.CONSUMER_NOT_FOUND, "No such consumer, or you may not see it. Check the id.", consumer_id=consumer_id)


def repeated_consumer() -> Invalid:
    """Returns the refusal for a person that an earlier row of the same batch binds."""
    return Invalid(Reason.INVALID_FIELD, "An earlier row binds the same person. Remove one of the rows.", field="consumer_id")


def unbind(
    consumer_id: str, brand_id: str, current: Sequence[Binding], authority: BindingAuthority, at: datetime
) -> tuple[list[Binding], list[ConsumerBound]]:
    """Returns the bindings that end, and the event. Raises `NotFound` (NOT_BOUND) if there is none that the caller may end."""
    if not current or not all(authority.can_take_from(binding) for binding in current):
        message = "No binding of this consumer to this brand, or you may not end it. Check both ids."
        raise NotFound(Reason.NOT_BOUND, message)
    event = ConsumerBound(consumer_id, brand_id, ended_consumer_ids=_list_other_ids(consumer_id, current))
    return [end(binding, at) for binding in current], [event]


def _list_other_ids(consumer_id: str, bindings: Iterable[Binding]) -> tuple[str, ...]:
    """Returns the other consumer ids of these bindings."""
    return tuple(sorted({binding.consumer_id for binding in bindings} - {consumer_id}))


def end(binding: Binding, at: datetime) -> Binding:
    """Returns the binding ended."""
    return replace(binding, active=False, ended_at=at)


def select_current(bindings: Iterable[Binding]) -> Binding | None:
    """Returns the binding that counts for a person: the latest active one, since linked consumers may have one each."""
    return max((one for one in bindings if one.active), key=lambda one: (one.bound_at, one.id), default=None)


def check_text(draft: Draft) -> Draft:
    """Returns the draft; raises `Invalid` if its text is blank, since a blank message would use up the cap."""
    if not draft.text.strip():
        raise Invalid(Reason.INVALID_FIELD, "`text` must not be blank. Write a message.", field="text")
    return draft


def authorize_send(
    staff: Staff | None, staff_id: str, bindings: Sequence[Binding], consented: bool, times: Iterable[datetime], at: datetime, zone: str
) -> tuple[Binding, int]:
    """Returns the binding under which a guide writes, and the number of messages left; raises the refusal of the first broken rule."""
    binding = select_current(bindings)
    if binding is None or binding.staff_id != staff_id:
        message = "This consumer is not bound to you. Ask the store's manager or the brand's operator for a binding."
        raise Denied(Reason.NOT_BOUND, message)
    if staff is None or not staff.active or staff.brand_id != binding.brand_id:
        message = "You are not an active member of staff of this brand. Ask the brand's operator."
        raise Denied(Reason.STAFF_UNKNOWN, message)
    if not consented:
        message = "The consumer did not consent to messages of this brand. Ask the consumer to allow outreach in their consents."
        raise Conflict(Reason.NO_CONSENT, message)
    recent = select_recent(times, at)
    if len(recent) >= CAP_MESSAGES_MAX:
        free_at = (recent[-CAP_MESSAGES_MAX] + CAP_WINDOW).isoformat()
        raise Exhausted(
            Reason.FREQUENCY_CAP,
            f"The brand sent {CAP_MESSAGES_MAX} messages within {CAP_WINDOW.days} days. Write again at the time in `freeAt`.",
            free_at=free_at,
            limit=CAP_MESSAGES_MAX,
        )
    if (until := find_quiet_end(at, zone)) is not None:
        message = "Messages are not sent between 22:00 and 08:00. Write again at the time in `freeAt`."
        raise Conflict(Reason.QUIET_HOURS, message, free_at=until.isoformat())
    return binding, CAP_MESSAGES_MAX - len(recent) - 1


def select_recent(times: Iterable[datetime], at: datetime) -> list[datetime]:
    """Returns the times that count against the cap at `at`, in order."""
    return sorted(time for time in times if time > at - CAP_WINDOW)


def find_quiet_end(at: datetime, zone: str) -> datetime | None:
    """Returns the end of the quiet hours; None outside of quiet hours."""
    return opening_hours.closes_at(QUIET_FROM_MINUTE, QUIET_UNTIL_MINUTE, at, zone)


def credit_order(outreaches: Iterable[Outreach], brand_ids: Iterable[str], order_id: str, paid_at: datetime) -> list[Outreach]:
    """Returns, for each brand of an order, the latest message before it within CREDIT_WINDOW, with the order as its outcome.

    Messages that have an order as their outcome already are left out.
    """
    brands, latest = frozenset(brand_ids), dict[str, Outreach]()
    for outreach in sorted(outreaches, key=lambda one: (one.sent_at, one.id)):
        if outreach.brand_id in brands and paid_at - CREDIT_WINDOW <= outreach.sent_at <= paid_at:
            latest[outreach.brand_id] = outreach
    return [
        replace(outreach, outcome=Outcome.ORDERED, order_id=order_id)
        for outreach in latest.values()
        if outreach.outcome is not Outcome.ORDERED
    ]


def mark_read(outreach: Outreach, at: datetime) -> Outreach:
    """Returns the message as read by its receiver; a later outcome stays."""
    outcome = Outcome.READ if outreach.outcome is Outcome.SENT else outreach.outcome
    return replace(outreach, read_at=outreach.read_at or at, unread=False, outcome=outcome)
