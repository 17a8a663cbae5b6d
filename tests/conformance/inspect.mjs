// Compares two schemas by `@graphql-inspector/core` and prints each change as a JSON object {path, message, level} a line.
//   node inspect.mjs BASELINE SCHEMA
import { readFileSync } from 'node:fs';
import { diff } from '@graphql-inspector/core';
import { buildSchema } from 'graphql';

const [before, after] = process.argv.slice(2).map((path) => buildSchema(readFileSync(path, 'utf8')));
for (const { path, message, criticality } of await diff(before, after)) {
  console.log(JSON.stringify({ path, message, level: criticality.level }));
}
