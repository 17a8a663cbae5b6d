"""The two tenants of the access tests, the brands ash and birch. Each id, name and amount belongs recognisably to one of them.

Public data of a tenant contain its plain name (`str_ash`); its own data contain `ash_secret` or a unique number. The people of birch attack
ash. Oak is another store of ash, and its people attack ash as well.
"""

from collections.abc import Mapping, Sequence

from services.kit.security.principals import INSTALLATION, SERVICE, Grant
from tests.services.worlds.rpcs import Person

OPERATOR = Person("the operator", "operator", (Grant("ROLE_OPERATOR", INSTALLATION),))
SYSTEM = Person("a service", "service:probe", (Grant(SERVICE, INSTALLATION),))
ANONYMOUS = Person("anonymous")
WITHOUT_GRANTS = Person("a person without grants", "stranger")

SERIALS = {"ash": 1, "birch": 2, "oak": 3}

ROLES_BY_NAME = {
    "CONSUMER": "ROLE_CONSUMER",
    "GUIDE": "ROLE_GUIDE",
    "STORE_MANAGER": "ROLE_STORE_MANAGER",
    "SUPERVISOR": "ROLE_SUPERVISOR",
    "BRAND_OPERATOR": "ROLE_BRAND_OPERATOR",
    "DISTRICT_OPERATOR": "ROLE_DISTRICT_OPERATOR",
    "SERVICE": "ROLE_SERVICE",
}


class Side:
    """A tenant or one store of it: its ids by noun, its people, and the texts and numbers that only it may see."""

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
        """Returns the first id of a noun, like `side.store`."""
        try:
            return self.__dict__["ids"][noun][0]
        except KeyError:
            raise AttributeError(noun) from None

    def number(self, value: int) -> int:
        """Records a number that only this side may see."""
        self.numbers.add(value)
        return value

    def add_ids(self, noun: str, *ids: str) -> None:
        """Records the ids of something that the seeding made."""
        self.ids.setdefault(noun, []).extend(ids)

    def text(self, suffix: str) -> str:
        """Returns a text that only this side may see."""
        return f"{self.secret} {suffix}"

    # people ----------------------------------------------------------------------------------------------------------

    @property
    def people(self) -> Mapping[str, Person]:
        """The people by role. As in organization, a grant for a place comes with the staff scope of the person."""
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
            ROLES_BY_NAME[name]: Person(
                f"{self.name}'s {name}",
                f"{self.name}:{name}",
                tuple(Grant(ROLES_BY_NAME[name], f"SCOPE_KIND_{kind}", id) for kind, id in scopes),
            )
            for name, scopes in grants.items()
        }

    @property
    def brand_id(self) -> str:
        return self.ids["brand"][0]

    def combine_people(self, roles: Sequence[str]) -> Person:
        """Returns one person with the grants of all these roles."""
        people = [person for role, person in self.people.items() if role in roles]
        return Person(f"{self.name}'s everything", f"{self.name}:all", tuple(grant for person in people for grant in person.grants))
