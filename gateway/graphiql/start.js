"use strict";

const QUERY = `# Say who asks, in Headers below: {"authorization": "Bearer …"}
# with what \`quanyu token --consumer con_demo_001\` prints.
{
  viewer {
    consumer {
      displayName
      relations(first: 3) {
        nodes { stage closeness brand { name { zh en } } }
      }
    }
  }
}
`;

const url = new URL("/graphql", location.href);
const socket = new URL(url);
socket.protocol = url.protocol === "https:" ? "wss:" : "ws:";

/** Queries and mutations go over HTTP; a subscription opens a socket of its own, with the same headers. */
function fetcher(parameters, options) {
  const wsClient = graphqlWs.createClient({ url: socket.href, connectionParams: options?.headers ?? {} });
  return GraphiQL.createFetcher({ url: url.href, wsClient, enableIncrementalDelivery: false })(parameters, options);
}

ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(GraphiQL, {
    fetcher,
    defaultQuery: QUERY,
    defaultHeaders: JSON.stringify({ authorization: "" }, null, 2),
    defaultEditorToolsVisibility: "headers",
    shouldPersistHeaders: false,
  }),
);
