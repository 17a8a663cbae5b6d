// Runs the audits of `graphql-http` against a server and prints one JSON object {id, name, status, reason} a line.
//   node http.mjs http://127.0.0.1:8000/graphql
import { serverAudits } from 'graphql-http';

const [url] = process.argv.slice(2);
for (const audit of serverAudits({ url, fetchFn: fetch })) {
  const { id, name, status, reason } = await audit.fn();
  console.log(JSON.stringify({ id, name, status, reason }));
}
