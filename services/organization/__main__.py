"""The organization service: `python -m services.organization`."""

from quanyu.organization.v1 import chart_pb2_grpc, targets_pb2_grpc, tasks_pb2_grpc
from services.kit.projections.persons import PersonProjection
from services.kit.runtime.process import main
from services.kit.runtime.runtime import Runtime, ServiceDefinition
from services.organization import events
from services.organization.chart.repository import ChartRepository
from services.organization.chart.rpc import ChartServicer
from services.organization.targets.repository import TargetRepository
from services.organization.targets.rpc import TargetServicer
from services.organization.tasks.repository import TaskRepository
from services.organization.tasks.rpc import TaskServicer


def define(runtime: Runtime) -> ServiceDefinition:
    """Returns the servicers, the collections and the event handlers of this service."""
    chart, persons = ChartRepository(runtime), PersonProjection(runtime.database)
    targets = TargetRepository(runtime, chart, persons)
    tasks = TaskRepository(runtime, targets, persons)
    return ServiceDefinition(
        servicers=[
            (chart_pb2_grpc.add_ChartServiceServicer_to_server, ChartServicer(runtime, chart, targets.guides.find_contacts)),
            (targets_pb2_grpc.add_TargetServiceServicer_to_server, TargetServicer(runtime, targets)),
            (tasks_pb2_grpc.add_TaskServiceServicer_to_server, TaskServicer(runtime, tasks)),
        ],
        collections=[*chart.collections, *targets.collections, *tasks.collections, persons.links],
        events=events.handlers(targets, tasks, persons),
    )


if __name__ == "__main__":
    main("organization", define)
