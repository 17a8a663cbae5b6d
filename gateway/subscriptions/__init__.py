"""Subscriptions: what a streaming rpc tells, as answers over a WebSocket (`graphql-transport-ws`) or an event stream (`graphql-sse`).

    buffer      events between the service that tells them and the client that takes them
    stream      from an operation to its answers, one for each event; goes on after the last cursor when a service ends its stream
    messages    the messages of graphql-transport-ws
    websocket   one connection and its operations
    sse         one operation a request, as `text/event-stream`

An event reaches a client over: change stream of the service -> its rpc -> `Feed` -> buffer -> executor -> socket. Each of these is
bounded, and whoever is slow is told so and dropped; with the last `cursor` as `after` nothing is missed.
"""
