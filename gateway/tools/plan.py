"""Prints the rpcs of an operation, level by level: `python -m gateway.tools.plan FILE.graphql [OPERATION] [--source]`.

Fields with `@skip` and `@include` are all included.
"""

import sys
from pathlib import Path

from graphql import GraphQLError, OperationDefinitionNode, get_operation_ast, parse, validate

from gateway.engine.collect_fields import Uncompiled, conditions_of
from gateway.engine.plan import Plan
from gateway.graph import schema


def format_plan(text: str, name: str | None = None, *, source: bool = False) -> str:
    """Returns the plan of an operation, and the source that it is compiled to. Raises GraphQLError or `Uncompiled` if there is none."""
    built = schema.build()
    document = parse(text)
    if errors := validate(built._schema, document):
        raise errors[0]
    operation: OperationDefinitionNode | None = get_operation_ast(document, name)
    if operation is None:
        raise GraphQLError("The document has no such operation. Give the name of one of its operations.")
    conditions = dict.fromkeys(conditions_of(document, operation), True)
    plan = Plan(built, document, operation, conditions, suggestions=True)
    return f"{plan}\n\n{plan.source}" if source else str(plan)


def main(arguments: list[str]) -> None:
    """Prints the plan. Exits with status 1 and the reason if there is none."""
    names = [argument for argument in arguments if argument != "--source"]
    if len(names) not in (1, 2):
        sys.exit(__doc__)
    try:
        sys.stdout.write(
            format_plan(Path(names[0]).read_text(), names[1] if len(names) == 2 else None, source="--source" in arguments) + "\n"
        )
    except Uncompiled as uncompiled:
        sys.exit(f"graphql-core executes this operation: {uncompiled.reason}")
    except (GraphQLError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
