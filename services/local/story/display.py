"""Display text of gateway answers: labels, names, amounts, times and reasons as the timeline prints them."""

from datetime import datetime
from zoneinfo import ZoneInfo

from services.local.story.gateway_client import ZONE, Answer

DECLINED = {
    "BUDGET_SPENT": "The brand's campaign budget is used up.",
    "CONSENT_MISSING": "The consumer has not allowed this brand to match.",
}
"""Explanations of the reasons why a brand gives no coupon."""

BASIS = {
    "OUTREACH": "Attribution: the guide wrote to the consumer within the last seven days.",
    "BINDING": "Attribution: the consumer is bound to this guide.",
}
"""Explanations of the evidence that decides the credit of an order."""


def format_label(label: str) -> str:
    """Returns an enum label of the graph as words."""
    return label.replace("_", " ").lower()


def format_count(number: int | str, noun: str) -> str:
    """Returns a number with its noun. The graph writes counts as text."""
    return f"{number} {noun}{'' if int(number) == 1 else 's'}"


def format_name(named: Answer | None) -> str:
    """Returns the name in Chinese and English, once if they are equal; the id if there is no name."""
    if not named or not named.get("name"):
        return named["id"] if named else "–"
    return " ".join(dict.fromkeys(each for each in (named["name"]["zh"], named["name"]["en"]) if each))


def format_money(amount: Answer | None) -> str:
    """Returns amount and currency."""
    return f"{amount['amount']} {amount['currency']}" if amount else "nothing"


def count_orders(card: Answer, store_id: str) -> dict[str, int]:
    """Counts the orders of a scorecard: all of them, and by the criteria that the story checks."""
    urgent = [each for each in card["byScenario"] if each["scenario"] == "URGENT_NEED"]
    stores = [each for each in card["byStore"] if each["store"]["id"] == store_id]
    parts = {"orders": [card], "urgent need": urgent, "by the store": stores}
    counted = {name: sum(int(each["total"]["orders"]) for each in found) for name, found in parts.items()}
    return counted | {name: int(card[name]["orders"]) for name in ("online", "offline")}


def format_totals(counted: Answer) -> str:
    """Returns the number of orders and their amount."""
    return f"{format_count(counted['orders'], 'order')}, {format_money(counted['amount'])}"


def format_time(at: str) -> str:
    """Returns the time of day in Shanghai."""
    return f"{datetime.fromisoformat(at).astimezone(ZoneInfo(ZONE)):%H:%M}"


def format_reason(given: Answer) -> str:
    """Returns why a brand's coupon is in the pack."""
    if given["purchaseCount"]:
        last = datetime.fromisoformat(given["lastPurchaseAt"]) if given["lastPurchaseAt"] else None
        return f"Bought {format_count(given['purchaseCount'], 'time')}" + (f", last on {last:%Y-%m-%d}." if last else ".")
    return f"{format_label(given['kind']).capitalize()}."


def format_cause(transition: Answer) -> str:
    """Returns what moved a stage: an interaction, or a long time without another one."""
    kind, ref = format_label(transition["cause"]["kind"]), transition["cause"]["ref"] or ""
    return f"{'no interaction since ' if transition['direction'] == 'LAPSE' else ''}{kind} {ref}".strip()


def format_promise(promise: Answer) -> str:
    """Returns the distance, the method and the time of a promise."""
    how = "pick up" if promise["method"] == "PICKUP" else "delivered"
    return f"{promise['distanceMetres']} m, {how} by {format_time(promise['arrivesAt'] or promise['readyAt'])}"
