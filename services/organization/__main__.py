"""The organization service: `python -m services.organization`."""

from quanyu.organization.v1 import chart_pb2_grpc, targets_pb2_grpc, tasks_pb2_grpc
from services.kit.house import House, Wiring
from services.kit.persons import Persons
from services.kit.process import main
from services.organization import facts
from services.organization.chart.rpc import ChartServicer
from services.organization.chart.store import Chart
from services.organization.targets.rpc import TargetServicer
from services.organization.targets.store import Targets
from services.organization.tasks.rpc import TaskServicer
from services.organization.tasks.store import Tasks


def wire(house: House) -> Wiring:
    """Everything this service consists of."""
    chart, persons = Chart(house), Persons(house.database)
    targets = Targets(house, chart, persons)
    tasks = Tasks(house, targets, persons)
    return Wiring(
        servicers=[
            (chart_pb2_grpc.add_ChartServiceServicer_to_server, ChartServicer(house, chart, targets.acquainted)),
            (targets_pb2_grpc.add_TargetServiceServicer_to_server, TargetServicer(house, targets)),
            (tasks_pb2_grpc.add_TaskServiceServicer_to_server, TaskServicer(house, tasks)),
        ],
        tables=[*chart.tables, *targets.tables, *tasks.tables, persons.table],
        facts=facts.table(targets, tasks, persons),
    )


if __name__ == "__main__":
    main("organization", wire)
