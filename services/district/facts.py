"""What the district does about the facts it hears."""

from collections.abc import Mapping

from services.district.matching.store import Affinity
from services.kit.house import Handler
from services.kit.persons import Persons
from services.kit.scopes import Scopes


def handlers(scopes: Scopes, persons: Persons, affinity: Affinity) -> Mapping[str, Handler]:
    """Fact -> effect. A test holds the kinds against the routes in facts.proto."""
    return {
        "store_changed": scopes.store_changed,
        "consumer_linked": persons.linked,
        "consumer_unlinked": persons.unlinked,
        "order_paid": affinity.order_paid,
        "orders_imported": affinity.orders_imported,
    }
