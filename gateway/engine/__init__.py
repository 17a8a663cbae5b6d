"""The engine: compiles an operation once to a plan, and runs the plan many times, from messages to the data of the answer.

    collect_fields  the selected fields of each type, merged, with fragments, @skip and @include resolved
    value_info      what the protos guarantee about a value, so that generated code does not check it again
    field_access    the expressions that read a field from its message
    codegen         the expressions that complete values: lists, scalars, enums, objects, interfaces and unions
    source_builder  the source text of the one Python module of a plan
    arguments       variables and arguments
    deferred        fields whose values arrive later
    batch_steps     deferred fields that share batch rpcs: references, `node` and `nodes`
    rpc_steps       deferred fields with an rpc of their own: queries, connections and mutations
    plan            a compiled operation, which can print itself
    pending         what a run waits for: deferred fields, keys and failures
    run             the execution of one request: dispatches rpcs and collects errors
    interpreter     executes a part again, field by field, after the generated code raised an error in it
    engine          compiles operations; graphql-core executes what it cannot compile

The generated code knows neither paths nor errors. If it raises, the interpreter executes the same part again and reports what failed and
where. Every deferred field is nullable, so that a late failure never removes data that is already complete.
"""
