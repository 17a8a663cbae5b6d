"""Requests that look valid, made from the descriptors: every id field is filled from a side, everything else by its name and type.

The next developer, whose rpc names a noun of its own, adds the noun to `Side.ids` (or where the seeding makes one) and nothing here.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from itertools import count, product
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.services.worlds.rpcs import rpcs

Path = tuple[str, ...]
Ids = Mapping[str, Sequence[str]]
"""Noun -> ids."""
Choice = Mapping[Path, Sequence[str]]
"""What stands in each id field; a field that is missing here stays empty."""

SAME_AS = {"parent": "org_unit", "scope": "store"}
"""Nouns of fields that are named after what the thing is to the request."""
SUBJECTS = {"ResolveConsumerRequest": "consumer", "ResolveGrantsRequest": "staff"}
"""Requests whose `subject` is an id."""
WITHOUT = {"PageRequest", "Timestamp", "Duration", "Event"}
"""Messages without ids to fill. Events are for the installation's own services; the gate refuses everybody else whatever is in them."""
PRODUCT_MAX = 3
"""Requests with more id fields than this are not tried in every combination, but with each field apart."""

fresh_numbers = count(1)


@cache
def id_fields(name: str) -> Mapping[Path, str]:
    """The id fields of an rpc's request, however deep, with the noun each one names."""
    method = rpcs()[name]
    return dict(_ids_in(method.input_type, (), _after_verb(method.name)))


def _ids_in(message: Any, path: Path, thing: str) -> Iterator[tuple[Path, str]]:
    for field in message.fields:
        here = (*path, field.name)
        if field.name in ("id", "ids"):
            yield here, thing
        elif field.name == "subject" and message.name in SUBJECTS:
            yield here, SUBJECTS[message.name]
        elif field.name != "request_id" and field.name.endswith(("_id", "_ids")):
            noun = field.name.removesuffix("s").removesuffix("_id")
            yield here, SAME_AS.get(noun, noun)
        elif (inner := field.message_type) is not None and inner.name not in WITHOUT and not inner.GetOptions().map_entry:
            yield from _ids_in(inner, here, _snake(inner.name.removeprefix("New").removeprefix("Imported")))


def _after_verb(method: str) -> str:
    """The noun of `BatchGetOutreaches`, in the singular."""
    words = _snake(method).split("_")
    while words[0] in ("batch", "get", "list", "create", "replay"):
        words = words[1:]
    noun = "_".join(words)
    return noun.removesuffix("es") if noun.endswith(("ches", "shes")) else noun.removesuffix("s")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def unknown_nouns(name: str, known: Ids) -> list[str]:
    """The id fields of an rpc whose nouns the world has no ids for."""
    return [f"{name}: {'.'.join(path)} names a {noun!r}" for path, noun in id_fields(name).items() if noun not in known]


# What stands in the id fields -----------------------------------------------------------------------------------------


def fresh(sample: str) -> str:
    """An id nobody used, of the same kind as `sample`."""
    return f"{sample.partition('_')[0]}_fresh{next(fresh_numbers)}"


def choices(name: str, target: Ids, own: Ids, common: Ids, *, filled: bool = False) -> list[Choice]:
    """What somebody could put into the id fields who has ids of their own and knows the target's.

    All fields the target's; one of their own, or a fresh one, beside the target's; one of the target's beside their own; somebody both
    know beside either; target's and own ids in one list; and (unless only `filled` ones are asked for) the same with fields left empty.
    """
    nouns = id_fields(name)
    found: list[Choice] = []

    def take(**by_path: str) -> None:
        sides = {path: by_path[".".join(path)] for path in nouns if ".".join(path) in by_path}
        found.append({path: _ids(nouns[path], side, target, own, common) for path, side in sides.items()})

    every = [".".join(path) for path in nouns]
    for mix in mixes(every, ("target", "own", "fresh")):
        take(**mix)
    for path in every:
        without = [one for one in every if one != path]
        # What is the target's with somebody both know comes last among its ids.
        take(**dict.fromkeys(every, "last") | {path: "common"})
        for one in without:
            take(**dict.fromkeys(every, "own") | {path: "common", one: "last"})
        take(**dict.fromkeys(every, "both"))
        if filled and len(every) > 1:
            continue
        take(**dict.fromkeys(without, "target"))
        for one in without:
            take(**dict.fromkeys(without, "own") | {one: "target"})
        for kind in ("target", "common", "both"):
            take(**{path: kind})
    if len(nouns) == 1:
        ((path, noun),) = nouns.items()
        found += [{path: [id]} for id in (*target.get(noun, ()), *common.get(noun, ()))]
    return found or [{}]


def whole(name: str, ids: Ids) -> Choice:
    """Every id field filled from one side."""
    return {path: list(ids.get(noun, ())) for path, noun in id_fields(name).items()}


def positive(name: str, ids: Ids) -> list[Choice]:
    """What a rightful caller could ask: all of it their own; with a fresh id, or none, where something is made; one field alone."""
    everything, nouns = whole(name, ids), id_fields(name)
    found = [everything]
    for path in nouns:
        without = {one: everything[one] for one in nouns if one != path}
        found += [everything | {path: [fresh(id) for id in everything[path][:1]]}, without]
        found += [{one: ids for one, ids in without.items() if one != other} for other in without]
        found += [{path: everything[path]}, *(choice | {path: [id]} for choice in (everything, {}) for id in everything[path])]
    return found


def mixes(paths: Sequence[str], sides: Sequence[str]) -> list[dict[str, str]]:
    """Every combination of sides with the target's among them; of many fields, one apart at a time."""
    if len(paths) <= PRODUCT_MAX:
        return [dict(zip(paths, mix, strict=True)) for mix in product(sides, repeat=len(paths)) if "target" in mix]
    found = [dict.fromkeys(paths, "target")]
    for path in paths:
        found += [dict.fromkeys(paths, "target") | {path: side} for side in sides[1:]]
        found += [dict.fromkeys(paths, side) | {path: "target"} for side in sides[1:]]
    return found


def _ids(noun: str, side: str, target: Ids, own: Ids, common: Ids) -> list[str]:
    theirs = list(target.get(noun, ()))
    match side:
        case "target":
            return theirs
        case "last":
            return theirs[::-1]
        case "own":
            return list(own.get(noun, ()))
        case "common":
            return list(common.get(noun) or own.get(noun, ()))
        case "both":
            return [*theirs, *own.get(noun, ())]
    return [fresh(theirs[0])]


# The rest of a request ------------------------------------------------------------------------------------------------

SKIPPED = {"page", "after", "state", "kinds", "methods", "subscriber", "issuer", "first", "valid_from", "valid_until",
           "franchised", "corners", "attributes", "sizes", "preferences", "events", "source", "bound_at", "created_at",
           "scenario", "scenario_hint"}  # fmt: skip
"""Fields that may stay empty and would only narrow what is asked, or make it fail."""
TEXTS = {
    "zone": "Asia/Shanghai",
    "currency": "CNY",
    "sandbox_token": "approve",
    "value": "13711112222",
    "category": "shirt",
    "text": "shirt",
    "phone": "13711113333",
}
NUMBERS = {"opens_minute": 600, "closes_minute": 1200, "radius_metres": 500, "radius_metres_max": 5000, "validity_days": 7, "minor": 1000}
ENUMS = {
    "CreateOrgUnitRequest.kind": 3,
    "GrantRoleRequest.role": 3,
    "GrantRoleRequest.kind": 4,
    "StaffRow.role": 2,
    "RecordInteractionRequest.kind": 9,
}
"""Where the first value of an enum would be refused."""
AFTER = {"starts_at": timedelta(hours=-1), "ends_at": timedelta(days=9), "paid_at": timedelta(days=-1), "needed_by": timedelta(hours=8)}


def request(name: str, choice: Choice, at: datetime, request_id: str) -> Message:
    """A request of that rpc with these ids; what names nothing is filled with what a well-meaning caller would give."""
    asked = GetMessageClass(rpcs()[name].input_type)()
    _fill(asked, (), choice, set(id_fields(name)), at)
    if "request_id" in asked.DESCRIPTOR.fields_by_name:
        asked.request_id = request_id  # type: ignore[attr-defined]
    return asked


def _fill(message: Any, path: Path, choice: Choice, paths: set[Path], at: datetime) -> None:
    for field in message.DESCRIPTOR.fields:
        here = (*path, field.name)
        if here in paths:
            _set(message, field, choice.get(here, ()))
        elif field.name in SKIPPED or field.name == "request_id":
            continue
        elif (inner := field.message_type) is None:
            value = _scalar(field, at)
            _set(message, field, [value])
        elif inner.full_name == "google.protobuf.Timestamp":
            getattr(message, field.name).FromDatetime(at + AFTER.get(field.name, timedelta()))
        elif not inner.GetOptions().map_entry and inner.name not in WITHOUT:
            below = {one for one in paths if one[: len(here)] == here}
            if not below or any(choice.get(one) for one in below):
                part = getattr(message, field.name)
                _fill(part.add() if field.is_repeated else part, here, choice, paths, at)
                if not field.is_repeated:
                    part.SetInParent()


def _set(message: Any, field: Any, values: Sequence[Any]) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(values)
    elif values:
        setattr(message, field.name, values[0])


def _scalar(field: Any, at: datetime) -> Any:
    if field.enum_type is not None:
        return ENUMS.get(f"{field.containing_type.name}.{field.name}", field.enum_type.values[1].number)
    if field.type == field.TYPE_STRING:
        days = {"month": f"{at:%Y-%m}", "from_day": f"{at:%Y-%m-%d}", "until_day": f"{at:%Y-%m-%d}", "subject": fresh("oidc_")}
        return {**TEXTS, **days}.get(field.name, field.name)
    if field.type == field.TYPE_BOOL:
        return True
    if field.type == field.TYPE_BYTES:
        return field.name.encode()
    if field.type == field.TYPE_DOUBLE:
        return {"longitude": 116.4551, "latitude": 39.9341}[field.name]
    return NUMBERS.get(field.name, 1)
