"""Subscriptions over WebSockets (`graphql-transport-ws`) and event streams (`graphql-sse`).

    buffer      bounded buffer between the stream of a service and a slow client
    runner      from an operation to its results, one for each event; resumes a stream after its last cursor
    lifetime    the end of a connection: by its client, its token or the stop of the process
    protocol    the messages of graphql-transport-ws
    websocket   a WebSocket with its operations
    sse         an event stream, with one operation for each request

The path of an event: change stream of MongoDB -> streaming rpc of the service -> `Feed` -> buffer -> executor -> connection. Each step is
bounded. A client that is too slow gets an error, and misses nothing if it subscribes again with its last `cursor` as `after`.
"""
