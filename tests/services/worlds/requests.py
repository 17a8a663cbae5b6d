"""Valid-looking requests, built from the descriptors: ids come from a side, all other values from the name and type of their field.

For an rpc with a new noun, add ids of the noun to `Side.ids` or to the seeding; this module needs no change.
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
"""Ids by noun."""
Choice = Mapping[Path, Sequence[str]]
"""The ids of each id field, by path; a missing field stays empty."""

SAME_AS = {"parent": "org_unit", "scope": "store"}
"""Nouns of fields that are named after what the thing is to the request."""
SUBJECTS = {"ResolveConsumerRequest": "consumer", "ResolveGrantsRequest": "staff"}
"""The nouns of requests whose `subject` is an id."""
WITHOUT = {"PageRequest", "Timestamp", "Duration", "Event"}
"""These messages have no ids to fill. Only services of the installation deliver events; all others are denied before the body is read."""
PRODUCT_MAX = 3
"""Requests with more id fields than this vary one field at a time instead of all combinations."""

fresh_numbers = count(1)


@cache
def id_fields(name: str) -> Mapping[Path, str]:
    """Returns the paths of all id fields in the request of an rpc, with their nouns."""
    method = rpcs()[name]
    return dict(_ids_in(method.input_type, (), _after_verb(method.name)))


def _ids_in(message: Any, path: Path, noun_of_rpc: str) -> Iterator[tuple[Path, str]]:
    for field in message.fields:
        here = (*path, field.name)
        if field.name in ("id", "ids"):
            yield here, noun_of_rpc
        elif field.name == "subject" and message.name in SUBJECTS:
            yield here, SUBJECTS[message.name]
        elif field.name != "request_id" and field.name.endswith(("_id", "_ids")):
            noun = field.name.removesuffix("s").removesuffix("_id")
            yield here, SAME_AS.get(noun, noun)
        elif (inner := field.message_type) is not None and inner.name not in WITHOUT and not inner.GetOptions().map_entry:
            yield from _ids_in(inner, here, _snake(inner.name.removeprefix("New").removeprefix("Imported")))


def _after_verb(method: str) -> str:
    """Returns the singular noun of an rpc: `outreach` for `BatchGetOutreaches`."""
    words = _snake(method).split("_")
    while words[0] in ("batch", "get", "list", "create", "replay"):
        words = words[1:]
    noun = "_".join(words)
    return noun.removesuffix("es") if noun.endswith(("ches", "shes")) else noun.removesuffix("s")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def find_unknown_nouns(name: str, known: Ids) -> list[str]:
    """Returns the id fields of an rpc with nouns that the world has no ids of."""
    return [f"{name}: {'.'.join(path)} names a {noun!r}" for path, noun in id_fields(name).items() if noun not in known]


# Choices of ids -----------------------------------------------------------------------------------------------------


def fresh_id(sample: str) -> str:
    """Returns an unused id of the same kind as `sample`."""
    return f"{sample.partition('_')[0]}_fresh{next(fresh_numbers)}"


def attack_choices(name: str, target: Ids, own: Ids, common: Ids, *, filled: bool = False) -> list[Choice]:
    """Returns the ids that an attacker could send who has own ids and knows those of the target.

    - All fields with ids of the target, or one of them with an own or an unused id.
    - One field with an id of the target and the others with own ids.
    - A shared id together with ids of either side, and ids of both sides in one list.
    - Unless `filled`: the same with empty fields.
    """
    nouns = id_fields(name)
    found: list[Choice] = []

    def take(**by_path: str) -> None:
        sides = {path: by_path[".".join(path)] for path in nouns if ".".join(path) in by_path}
        found.append({path: _ids(nouns[path], side, target, own, common) for path, side in sides.items()})

    all_paths = [".".join(path) for path in nouns]
    for mix in combine_sides(all_paths, ("target", "own", "fresh_id")):
        take(**mix)
    for path in all_paths:
        without = [one for one in all_paths if one != path]
        # The target's things that involve a shared person are last among its ids.
        take(**dict.fromkeys(all_paths, "last") | {path: "common"})
        for one in without:
            take(**dict.fromkeys(all_paths, "own") | {path: "common", one: "last"})
        take(**dict.fromkeys(all_paths, "both"))
        if filled and len(all_paths) > 1:
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


def full_choice(name: str, ids: Ids) -> Choice:
    """Returns a choice with all id fields filled from one side."""
    return {path: list(ids.get(noun, ())) for path, noun in id_fields(name).items()}


def rightful_choices(name: str, ids: Ids) -> list[Choice]:
    """Returns the choices of a rightful caller: all fields with own ids, one field with an unused id or empty, or one field alone."""
    everything, nouns = full_choice(name, ids), id_fields(name)
    found = [everything]
    for path in nouns:
        without = {one: everything[one] for one in nouns if one != path}
        found += [everything | {path: [fresh_id(id) for id in everything[path][:1]]}, without]
        found += [{one: ids for one, ids in without.items() if one != other} for other in without]
        found += [{path: everything[path]}, *(choice | {path: [id]} for choice in (everything, {}) for id in everything[path])]
    return found


def combine_sides(paths: Sequence[str], sides: Sequence[str]) -> list[dict[str, str]]:
    """Returns all combinations of sides that include the target; for many fields only those that differ in one field."""
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
    return [fresh_id(theirs[0])]


# The rest of a request ------------------------------------------------------------------------------------------------

SKIPPED = {"page", "after", "state", "kinds", "methods", "subscriber", "issuer", "first", "valid_from", "valid_until",
           "franchised", "corners", "attributes", "sizes", "preferences", "events", "source", "bound_at", "created_at",
           "scenario", "scenario_hint"}  # fmt: skip
"""These optional fields stay empty, since they would only narrow the result or make the request fail."""
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
"""The values of enum fields whose first value would be refused."""
AFTER = {"starts_at": timedelta(hours=-1), "ends_at": timedelta(days=9), "paid_at": timedelta(days=-1), "needed_by": timedelta(hours=8)}


def build_request(name: str, choice: Choice, at: datetime, request_id: str) -> Message:
    """Builds a request of an rpc with these ids; the other fields get plausible values."""
    request = GetMessageClass(rpcs()[name].input_type)()
    _fill(request, (), choice, set(id_fields(name)), at)
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        request.request_id = request_id  # type: ignore[attr-defined]
    return request


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
        days = {"month": f"{at:%Y-%m}", "from_day": f"{at:%Y-%m-%d}", "until_day": f"{at:%Y-%m-%d}", "subject": fresh_id("oidc_")}
        return {**TEXTS, **days}.get(field.name, field.name)
    if field.type == field.TYPE_BOOL:
        return True
    if field.type == field.TYPE_BYTES:
        return field.name.encode()
    if field.type == field.TYPE_DOUBLE:
        return {"longitude": 116.4551, "latitude": 39.9341}[field.name]
    return NUMBERS.get(field.name, 1)
