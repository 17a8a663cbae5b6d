"""Event handlers of the district service. A test compares the handled events with the routes in events.proto."""

from collections.abc import Mapping

from services.district.matching.repository import AffinityRepository
from services.kit.events.inbox import Handler
from services.kit.projections.persons import PersonProjection
from services.kit.projections.scopes import ScopeProjection


def build_handlers(scopes: ScopeProjection, persons: PersonProjection, affinity: AffinityRepository) -> Mapping[str, Handler]:
    """Returns the handler of each event."""
    return {
        "store_changed": scopes.handle_store_changed,
        "consumer_linked": persons.handle_consumer_linked,
        "consumer_unlinked": persons.handle_consumer_unlinked,
        "order_paid": affinity.apply_order_paid,
        "orders_imported": affinity.apply_orders_imported,
    }
