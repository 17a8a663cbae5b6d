// Compiles a folder of operations against a schema by `relay-compiler`, like an app built with Relay.
//   node relay.mjs SCHEMA OPERATIONS OUT
// Each operation is a plain document in its own file. Relay requires modules, and operations named <Module>Query or <Module>Mutation,
// so the copies in OUT are renamed and otherwise unchanged.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { Kind, parse, print } from 'graphql';
import relayCompiler from 'relay-compiler';

const SUFFIX = { query: 'Query', mutation: 'Mutation', subscription: 'Subscription' };
const [schema, operations, out] = process.argv.slice(2);

const named = (definition, value) => ({ ...definition, name: { ...definition.name, value } });

function moduleOf(file) {
  const document = parse(readFileSync(join(operations, file), 'utf8'));
  const module = basename(file, '.graphql').replace(/(?:^|_)(\w)/g, (_, letter) => letter.toUpperCase());
  const definitions = document.definitions.map((each) =>
    each.kind === Kind.OPERATION_DEFINITION ? named(each, module + SUFFIX[each.operation]) : each,
  );
  return [module, `import { graphql } from 'react-relay';\n\ngraphql\`\n${print({ ...document, definitions })}\n\`;\n`];
}

mkdirSync(join(out, 'src', 'compiled'), { recursive: true });
for (const file of readdirSync(operations).filter((name) => name.endsWith('.graphql'))) {
  const [module, text] = moduleOf(file);
  writeFileSync(join(out, 'src', `${module}.js`), text);
}
writeFileSync(join(out, 'schema.graphql'), readFileSync(schema));
writeFileSync(
  join(out, 'relay.config.json'),
  JSON.stringify({ src: './src', schema: './schema.graphql', artifactDirectory: './src/compiled', language: "javascript" }),
);
const { status, error } = spawnSync(relayCompiler, ['--noWatchman', join(out, 'relay.config.json')], { cwd: out, stdio: 'inherit' });
if (error) throw error;
process.exit(status ?? 1);
