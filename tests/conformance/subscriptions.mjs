// Runs one operation by the client `graphql-ws` or `graphql-sse` and prints each event of the client as a JSON object a line.
//   node subscriptions.mjs ws|sse URL TOKEN QUERY [VARIABLES]
//   -> {opened: true} | {closed: CODE, reason} (of a WebSocket) | {next: RESULT} | {failed: ERROR} | {completed: true}
// A line on standard input disposes of the operation.
import { createInterface } from 'node:readline';
import { createClient as createStreamClient } from 'graphql-sse';
import { createClient as createSocketClient } from 'graphql-ws';
import WebSocket from 'ws';

const [transport, url, token, query, variables = '{}'] = process.argv.slice(2);
const credentials = () => ({ authorization: `Bearer ${token}` });
const retryAttempts = 50;
const wait = () => new Promise((done) => setTimeout(done, 100));
const print = (line) => console.log(JSON.stringify(line));

const open = {
  ws: () =>
    createSocketClient({
      url: url.replace(/^http/, 'ws'),
      webSocketImpl: WebSocket,
      connectionParams: credentials,
      on: { connected: () => print({ opened: true }), closed: ({ code, reason }) => print({ closed: code, reason }) },
      shouldRetry: () => true,
      retryAttempts,
      retryWait: wait,
    }),
  sse: () => createStreamClient({ url, headers: credentials, retryAttempts, retry: wait }),
};

function describe(failure) {
  if (Array.isArray(failure)) return { errors: failure };
  const { message, code, reason, response } = failure;
  return { message, code, reason, status: response?.status };
}

const client = open[transport]();
const ended = new Promise((done) => {
  const dispose = client.subscribe(
    { query, variables: JSON.parse(variables) },
    {
      next: (answer) => print({ next: answer }),
      error: (failure) => done({ failed: describe(failure) }),
      complete: () => done({ completed: true }),
    },
  );
  createInterface({ input: process.stdin }).once('line', dispose);
});
print(await ended);
await client.dispose();
process.exit();
