"""HTTP of the gateway: the endpoint of GraphQL over HTTP and its middleware, webhooks, GraphiQL, and the limits of connections.

protocol           uvicorn's protocols with limits for the arrival of a request and for a slow client
connection_limits  connections per address, and the send timeout
security_headers   middleware: adds headers for browsers to every response
load_shedding      middleware: buffers the body, then rejects requests above the concurrency limit
endpoint           `/graphql`
request, response  a GraphQL request within an HTTP request; the result of an operation as an HTTP response
errors             error responses to requests that do not become operations
webhooks           `/webhooks`: forwards signed notices of other systems to the services that verify them
graphiql           the page of GraphiQL in development
"""
