"""What the gateway answers, in the timeline's words."""

from datetime import datetime
from zoneinfo import ZoneInfo

from services.local.story.stage import ZONE, Answer

DECLINED = {"BUDGET_SPENT": "the brand's budget has nothing left", "CONSENT_MISSING": "she has not allowed this brand to match her"}


BASIS = {
    "OUTREACH": "the guide she is bound to wrote to her within seven days",
    "BINDING": "she is bound to this guide",
}
"""Which fact decided whom an order is credited to."""


def words(label: str) -> str:
    """A label of the graph as words."""
    return label.replace("_", " ").lower()


def count(number: int | str, what: str) -> str:
    """So many of something; the graph writes counts as text."""
    return f"{number} {what}{'' if int(number) == 1 else 's'}"


def name(named: Answer | None) -> str:
    """In both languages where they differ."""
    if not named or not named.get("name"):
        return named["id"] if named else "–"
    return " ".join(dict.fromkeys(each for each in (named["name"]["zh"], named["name"]["en"]) if each))


def money(amount: Answer | None) -> str:
    return f"{amount['amount']} {amount['currency']}" if amount else "nothing"


def counts(card: Answer, store_id: str) -> dict[str, int]:
    """Orders of a scorecard, in all and by what the walk looks at."""
    urgent = [each for each in card["byScenario"] if each["scenario"] == "URGENT_NEED"]
    stores = [each for each in card["byStore"] if each["store"]["id"] == store_id]
    parts = {"orders": [card], "urgent need": urgent, "by the store": stores}
    counted = {what: sum(int(each["total"]["orders"]) for each in found) for what, found in parts.items()}
    return counted | {what: int(card[what]["orders"]) for what in ("online", "offline")}


def figures(counted: Answer) -> str:
    return f"{count(counted['orders'], 'order')}, {money(counted['amount'])}"


def clock(at: str) -> str:
    return f"{datetime.fromisoformat(at).astimezone(ZoneInfo(ZONE)):%H:%M}"


def reason(given: Answer) -> str:
    if given["purchaseCount"]:
        last = datetime.fromisoformat(given["lastPurchaseAt"]) if given["lastPurchaseAt"] else None
        return f"bought {count(given['purchaseCount'], 'time')}" + (f", last on {last:%Y-%m-%d}" if last else "")
    return words(given["kind"])


def cause(transition: Answer) -> str:
    """What moved a stage: an event, or that nothing came after it for too long."""
    kind, ref = words(transition["cause"]["kind"]), transition["cause"]["ref"] or ""
    return f"{'nothing since ' if transition['direction'] == 'LAPSE' else ''}{kind} {ref}".strip()


def promise(made: Answer) -> str:
    how = "pick up" if made["method"] == "PICKUP" else "delivered"
    return f"{made['distanceMetres']} m, {how} by {clock(made['arrivesAt'] or made['readyAt'])}"
