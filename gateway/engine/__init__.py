"""The engine: a document is compiled once to a plan and run many times, from messages to the bytes of the answer.

    collect    what is selected: fields of each type, merged, with fragments, @skip and @include settled
    known      what is certain of a value before it is there, so that nothing looks again
    reads      how a field is read from its message
    leaves     scalars and enums            \\
    objects    selections of object types    > as source text of one Python module per plan
    lists      lists                        /
    abstract   interfaces and unions, by the class of the value
    values     whichever of these completes a value
    source     the text of that module as it grows
    arguments  variables and arguments
    deferred   fields whose values come later, in their places
    edges      fields that follow a batch: one rpc per batch and level
    calls      fields that call an rpc of their own
    plan       a compiled operation, which prints itself
    run        one request: what is pending, and what failed
    careful    the same as the generated source, field by field, when something is amiss
    engine     plans kept beside their documents; what is not compiled goes to the ordinary executor

The generated source knows neither paths nor errors. Where it raises, `careful` walks the same part again and says what failed and where.
Every deferred field is nullable, so that what arrives later never takes back what is there.
"""
