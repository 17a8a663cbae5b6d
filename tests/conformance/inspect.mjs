// What changed between two schemas, as `@graphql-inspector/core` sees it: one JSON object {path, message, level} a line.
//   node inspect.mjs BASELINE SCHEMA
import { readFileSync } from 'node:fs';
import { diff } from '@graphql-inspector/core';
import { buildSchema } from 'graphql';

const [before, after] = process.argv.slice(2).map((path) => buildSchema(readFileSync(path, 'utf8')));
for (const { path, message, criticality } of await diff(before, after)) {
  console.log(JSON.stringify({ path, message, level: criticality.level }));
}
