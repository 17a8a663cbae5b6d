"""The viewer: whoever is signed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.graph.batches import consumer_by_id, staff_by_id
from gateway.schema.references import edge
from gateway.schema.types import computed, root

if TYPE_CHECKING:
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Staff


@root("Whoever is signed in: a consumer, a member of staff, or both.")
class Viewer:
    consumer: Consumer | None = edge(by="consumer_id", through=consumer_by_id, description="As a consumer; null for those who are none.")
    staff: Staff | None = edge(by="staff_id", through=staff_by_id, description="As a member of staff; null for those who are none.")


class Queries:
    viewer: Viewer | None = computed(
        lambda session: session if session.principal is not None else None, "Whoever is signed in; null when nobody is."
    )
