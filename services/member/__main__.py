"""The member service: `python -m services.member`."""

from quanyu.member.v1 import consent_pb2_grpc, identity_pb2_grpc, outreach_pb2_grpc, relation_pb2_grpc
from services.kit.runtime.process import main
from services.kit.runtime.runtime import Runtime, ServiceDefinition
from services.member import events
from services.member.consent.repository import ConsentRepository
from services.member.consent.rpc import ConsentServicer
from services.member.identity.repository import ConsumerRepository
from services.member.identity.rpc import IdentityServicer
from services.member.outreach.repository import BindingRepository, OutreachRepository
from services.member.outreach.rpc import OutreachServicer
from services.member.relation.repository import RelationRepository
from services.member.relation.rpc import RelationServicer
from services.member.store_projection import StoreProjection


def define(runtime: Runtime) -> ServiceDefinition:
    """Builds the repositories, then the servicers; identity notifies consent of imports and relation of links."""
    stores, consumers, consents = StoreProjection(runtime), ConsumerRepository(runtime), ConsentRepository(runtime)
    relations = RelationRepository(runtime, consumers)
    bindings, outreaches = BindingRepository(runtime, consumers), OutreachRepository(runtime, consumers)
    consent = ConsentServicer(runtime, consents, consumers, stores)
    return ServiceDefinition(
        servicers=[
            (
                identity_pb2_grpc.add_IdentityServiceServicer_to_server,
                IdentityServicer(
                    runtime, consumers, stores, on_import=consent.import_consents, on_people_change=relations.recount
                ),
            ),
            (consent_pb2_grpc.add_ConsentServiceServicer_to_server, consent),
            (relation_pb2_grpc.add_RelationServiceServicer_to_server, RelationServicer(runtime, relations, consumers, stores)),
            (
                outreach_pb2_grpc.add_OutreachServiceServicer_to_server,
                OutreachServicer(runtime, bindings, outreaches, relations, consents, consumers, stores),
            ),
        ],
        collections=[
            stores.stores, consumers.consumers, consumers.identities, consumers.links,
            consents.consents, consents.changes, consents.consented_brands,
            relations.interactions, relations.relations, relations.transitions,
            bindings.staff, bindings.bindings, outreaches.outreaches, outreaches.caps,
        ],
        events=events.build_handlers(stores, consumers, relations, bindings, outreaches),
    )  # fmt: skip


if __name__ == "__main__":
    main("member", define)
