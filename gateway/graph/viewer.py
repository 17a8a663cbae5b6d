"""Schema of the viewer: the person who is signed in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.graph.batch_loaders import consumer_by_id, staff_by_id
from gateway.schema.references import reference
from gateway.schema.types import computed_field, root_type

if TYPE_CHECKING:
    from gateway.graph.member.identity import Consumer
    from gateway.graph.organization.chart import Staff


@root_type("The person who is signed in: a consumer, a member of staff, or both.")
class Viewer:
    consumer: Consumer | None = reference(
        by="consumer_id", loader=consumer_by_id, description="You as a consumer. Null if you are not one."
    )
    staff: Staff | None = reference(by="staff_id", loader=staff_by_id, description="You as a member of staff. Null if you are not one.")


class Queries:
    viewer: Viewer | None = computed_field(
        lambda session: session if session.principal is not None else None, "The person who is signed in. Null without a sign-in."
    )
