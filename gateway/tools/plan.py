"""What the gateway will ask for a document, level for level: `python -m gateway.tools.plan FILE.graphql [OPERATION] [--source]`.

Conditions of `@skip` and `@include` are taken as if everything was wanted.
"""

import sys
from pathlib import Path

from graphql import GraphQLError, OperationDefinitionNode, get_operation_ast, parse, validate

from gateway.engine.collect_fields import Uncompiled, conditions_of
from gateway.engine.plan import Plan
from gateway.graph import schema


def printed(text: str, name: str | None = None, *, source: bool = False) -> str:
    """The plan of an operation, and the source it is compiled to; GraphQLError or `Uncompiled` say why there is none."""
    built = schema.build()
    document = parse(text)
    if errors := validate(built._schema, document):
        raise errors[0]
    operation: OperationDefinitionNode | None = get_operation_ast(document, name)
    if operation is None:
        raise GraphQLError("name one of the document's operations")
    wanted = dict.fromkeys(conditions_of(document, operation), True)
    plan = Plan(built, document, operation, wanted, suggestions=True)
    return f"{plan}\n\n{plan.source}" if source else str(plan)


def main(arguments: list[str]) -> None:
    """Exit status 1 and the reason when there is no plan."""
    names = [argument for argument in arguments if argument != "--source"]
    if len(names) not in (1, 2):
        sys.exit(__doc__)
    try:
        sys.stdout.write(printed(Path(names[0]).read_text(), names[1] if len(names) == 2 else None, source="--source" in arguments) + "\n")
    except Uncompiled as uncompiled:
        sys.exit(f"left to graphql-core: {uncompiled.reason}")
    except (GraphQLError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
