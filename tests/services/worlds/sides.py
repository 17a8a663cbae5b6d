"""Two tenants whose every id, name and amount can be told apart wherever it turns up: the brands ash and birch.

What anybody may know of a tenant carries its plain name (`str_ash`); what is its own carries `ash_secret`, or a number that
nothing else has. Birch's people want to know what is ash's. Oak is another store of ash, whose people want the same.
"""

from collections.abc import Mapping, Sequence

from services.kit.security.principals import INSTALLATION, SERVICE, Grant
from tests.services.worlds.rpcs import Person

OPERATOR = Person("the operator", "operator", (Grant("ROLE_OPERATOR", INSTALLATION),))
SYSTEM = Person("a service", "service:probe", (Grant(SERVICE, INSTALLATION),))
NOBODY = Person("nobody")
STRANGER = Person("somebody without any grant", "stranger")

SERIALS = {"ash": 1, "birch": 2, "oak": 3}

KINDS = {
    "CONSUMER": "ROLE_CONSUMER",
    "GUIDE": "ROLE_GUIDE",
    "STORE_MANAGER": "ROLE_STORE_MANAGER",
    "SUPERVISOR": "ROLE_SUPERVISOR",
    "BRAND_OPERATOR": "ROLE_BRAND_OPERATOR",
    "DISTRICT_OPERATOR": "ROLE_DISTRICT_OPERATOR",
    "SERVICE": "ROLE_SERVICE",
}


class Side:
    """One tenant, or one store of it: the ids of everything of its own by noun, its people, and what nobody else may see."""

    def __init__(self, name: str, brand: str = "") -> None:
        self.name, secret = name, f"{name}_secret"
        self.brand = brand or name
        self.secret, self.serial = secret, SERIALS[name]
        self.numbers: set[int] = set()
        self.ids: dict[str, list[str]] = {
            "brand": [f"brd_{self.brand}"],
            "store": [f"str_{name}"],
            "org_unit": [f"unt_{secret}_north"],
            "staff": [f"stf_{secret}_guide", f"stf_{secret}_manager", f"stf_{secret}_supervisor", f"stf_{secret}_operator"],
            "consumer": [f"con_{secret}"],
            "linked_consumer": [f"con_{secret}_twin"],
            "relation": [f"rel_con_{secret}_brd_{self.brand}"],
            "product": [f"prd_{self.brand}"],
            "variant": [f"var_{self.brand}"],
            "offer": [f"ofr_{self.brand}"],
            "stock": [f"str_{name}:var_{self.brand}"],
            "district": [f"dst_{self.brand}"],
            "venue": [f"ven_{self.brand}"],
            "campaign": [f"cmp_{self.brand}"],
            "parked_event": ["member:0:evt_none"],
        }

    def __getattr__(self, noun: str) -> str:
        """The first id of a noun: `side.store`."""
        try:
            return self.__dict__["ids"][noun][0]
        except KeyError:
            raise AttributeError(noun) from None

    def number(self, value: int) -> int:
        """A number that is this side's own."""
        self.numbers.add(value)
        return value

    def knows(self, noun: str, *ids: str) -> None:
        """Notes the ids of something that was made."""
        self.ids.setdefault(noun, []).extend(ids)

    def text(self, what: str) -> str:
        """A text that is this side's own."""
        return f"{self.secret} {what}"

    # people ----------------------------------------------------------------------------------------------------------

    @property
    def people(self) -> Mapping[str, Person]:
        """By role, as organization would let them sign in: a role at a place comes with the person's own scope."""
        guide, manager, supervisor, operator = self.ids["staff"][:4]
        grants: dict[str, list[tuple[str, str]]] = {
            "CONSUMER": [("CONSUMER", id) for id in (self.consumer, self.linked_consumer)],
            "GUIDE": [("STORE", self.store), ("STAFF", guide)],
            "STORE_MANAGER": [("STORE", self.store), ("STAFF", manager)],
            "SUPERVISOR": [("ORG_UNIT", self.org_unit), ("STAFF", supervisor)],
            "BRAND_OPERATOR": [("BRAND", self.brand_id), ("STAFF", operator)],
            "DISTRICT_OPERATOR": [("DISTRICT", self.district)],
            "SERVICE": [("BRAND", self.brand_id)],
        }
        return {
            KINDS[name]: Person(
                f"{self.name}'s {name}", f"{self.name}:{name}", tuple(Grant(KINDS[name], f"SCOPE_KIND_{kind}", id) for kind, id in held)
            )
            for name, held in grants.items()
        }

    @property
    def brand_id(self) -> str:
        return self.ids["brand"][0]

    def everybody(self, roles: Sequence[str]) -> Person:
        """One person who is all of that at once."""
        people = [person for role, person in self.people.items() if role in roles]
        return Person(f"{self.name}'s everything", f"{self.name}:all", tuple(grant for person in people for grant in person.grants))
