"""The member service: `python -m services.member`."""

from quanyu.member.v1 import consent_pb2_grpc, identity_pb2_grpc, outreach_pb2_grpc, relation_pb2_grpc
from services.kit.runtime.process import main
from services.kit.runtime.runtime import Runtime, ServiceDefinition
from services.member import events
from services.member.consent.repository import Consents
from services.member.consent.rpc import ConsentService
from services.member.identity.repository import Consumers
from services.member.identity.rpc import IdentityService
from services.member.outreach.repository import Bindings, Outreaches
from services.member.outreach.rpc import OutreachService
from services.member.relation.repository import Relations
from services.member.relation.rpc import RelationService
from services.member.store_projection import Stores


def define(runtime: Runtime) -> ServiceDefinition:
    """Stores first, then the servicers over them; identity hears from the use cases uphill what follows in its writes."""
    stores, consumers, consents = Stores(runtime), Consumers(runtime), Consents(runtime)
    relations = Relations(runtime, consumers)
    bindings, outreaches = Bindings(runtime, consumers), Outreaches(runtime, consumers)
    consent = ConsentService(runtime, consents, consumers, stores)
    return ServiceDefinition(
        servicers=[
            (
                identity_pb2_grpc.add_IdentityServiceServicer_to_server,
                IdentityService(runtime, consumers, stores, imported=consent.imported, moved=relations.moved),
            ),
            (consent_pb2_grpc.add_ConsentServiceServicer_to_server, consent),
            (relation_pb2_grpc.add_RelationServiceServicer_to_server, RelationService(runtime, relations, consumers, stores)),
            (
                outreach_pb2_grpc.add_OutreachServiceServicer_to_server,
                OutreachService(runtime, bindings, outreaches, relations, consents, consumers, stores),
            ),
        ],
        tables=[
            stores.table, consumers.table, consumers.identities, consumers.links,
            consents.standing, consents.changes, consents.addressed,
            relations.interactions, relations.relations, relations.transitions,
            bindings.staff, bindings.table, outreaches.table, outreaches.sent,
        ],
        facts=events.table(stores, consumers, relations, bindings, outreaches),
    )  # fmt: skip


if __name__ == "__main__":
    main("member", define)
