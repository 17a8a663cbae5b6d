"""What the district does about the events it hears."""

from collections.abc import Mapping

from services.district.matching.repository import AffinityRepository
from services.kit.projections.persons import PersonProjection
from services.kit.projections.scopes import ScopeProjection
from services.kit.runtime.runtime import Handler


def handlers(scopes: ScopeProjection, persons: PersonProjection, affinity: AffinityRepository) -> Mapping[str, Handler]:
    """Event -> effect. A test holds the kinds against the routes in events.proto."""
    return {
        "store_changed": scopes.store_changed,
        "consumer_linked": persons.linked,
        "consumer_unlinked": persons.unlinked,
        "order_paid": affinity.order_paid,
        "orders_imported": affinity.orders_imported,
    }
