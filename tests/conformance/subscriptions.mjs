// One operation through a client that others wrote: `graphql-ws` or `graphql-sse`. All that the client is told is one JSON object a line.
//   node subscriptions.mjs ws|sse URL TOKEN QUERY [VARIABLES]
//   -> {opened: true} | {closed: CODE, reason} (of a WebSocket) | {next: ANSWER} | {failed: WHY} | {completed: true}
// A line on its standard input ends the operation as an app would, without waiting for more.
import { createInterface } from 'node:readline';
import { createClient as createStreamClient } from 'graphql-sse';
import { createClient as createSocketClient } from 'graphql-ws';
import WebSocket from 'ws';

const [way, url, token, query, variables = '{}'] = process.argv.slice(2);
const credentials = () => ({ authorization: `Bearer ${token}` });
const retryAttempts = 50;
const soon = () => new Promise((done) => setTimeout(done, 100));
const tell = (line) => console.log(JSON.stringify(line));

const open = {
  ws: () =>
    createSocketClient({
      url: url.replace(/^http/, 'ws'),
      webSocketImpl: WebSocket,
      connectionParams: credentials,
      on: { connected: () => tell({ opened: true }), closed: ({ code, reason }) => tell({ closed: code, reason }) },
      shouldRetry: () => true,
      retryAttempts,
      retryWait: soon,
    }),
  sse: () => createStreamClient({ url, headers: credentials, retryAttempts, retry: soon }),
};

function why(failure) {
  if (Array.isArray(failure)) return { errors: failure };
  const { message, code, reason, response } = failure;
  return { message, code, reason, status: response?.status };
}

const client = open[way]();
const ended = new Promise((done) => {
  const dispose = client.subscribe(
    { query, variables: JSON.parse(variables) },
    {
      next: (answer) => tell({ next: answer }),
      error: (failure) => done({ failed: why(failure) }),
      complete: () => done({ completed: true }),
    },
  );
  createInterface({ input: process.stdin }).once('line', dispose);
});
tell(await ended);
await client.dispose();
process.exit();
