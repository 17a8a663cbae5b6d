// A real OIDC provider (`oidc-provider`). A test sends commands as lines on standard input; each is answered by one JSON line.
//   node provider.mjs PORT
//   start      starts listening, or restarts          -> {issuer}
//   stop       stops listening                        -> {stopped: true}
//   rotate     signs with new keys, publishes old ones too -> {keys: [kid]}
//   replace    new keys only                          -> {keys: [kid]}
//   count      requests for the keys since the start  -> {fetched}
// The resource indicator of a JWT access token is urn:AUDIENCE:ALGORITHM.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

// Standard output has the answers only. The log of the provider goes to standard error.
for (const name of ['log', 'info', 'warn', 'debug']) console[name] = console.error;

const port = Number(process.argv[2]);
const issuer = `http://127.0.0.1:${port}`;
const REDIRECT = 'http://127.0.0.1:1/signed-in';
const KINDS = { RS256: ['rsa', { modulusLength: 2048 }], ES256: ['ec', { namedCurve: 'P-256' }], EdDSA: ['ed25519', {}] };

function keyOf([alg, [type, options]]) {
  return { ...generateKeyPairSync(type, options).privateKey.export({ format: 'jwk' }), kid: randomUUID(), alg, use: 'sig' };
}

// RSA keys are slow to generate, so there is one only.
const newKeys = () => ['ES256', 'EdDSA'].map((alg) => keyOf([alg, KINDS[alg]]));
const rsa = keyOf(['RS256', KINDS.RS256]);
let keys = [rsa, ...newKeys()];
let fetched = 0;
let handler;
let server;

function provide() {
  const provider = new Provider(issuer, {
    jwks: { keys },
    clients: ['anna', 'guo', 'ops'].map((name) => ({
      client_id: name,
      client_secret: `${name}-secret`,
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    })).concat({
      client_id: 'mini-program',
      token_endpoint_auth_method: 'none',
      grant_types: ['authorization_code'],
      redirect_uris: [REDIRECT],
      application_type: 'native',
    }),
    cookies: { keys: [randomUUID()] },
    ttl: { ClientCredentials: 300, AccessToken: 300 },
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: true },
      resourceIndicators: {
        enabled: true,
        useGrantedResource: () => true,
        getResourceServerInfo(ctx, indicator) {
          const [, audience, alg] = indicator.split(':');
          return { scope: 'graph', audience, accessTokenFormat: 'jwt', jwt: { sign: { alg } } };
        },
      },
    },
  });
  handler = provider.callback();
}

const commands = {
  async start() {
    if (server?.listening) await commands.stop();
    fetched = 0;
    server = createServer((request, response) => {
      if (request.url === '/jwks') fetched += 1;
      handler(request, response);
    });
    await new Promise((done) => server.listen(port, '127.0.0.1', done));
    return { issuer };
  },
  async stop() {
    const closed = new Promise((done) => server.close(done));
    server.closeAllConnections();
    await closed;
    return { stopped: true };
  },
  rotate() {
    keys = [...newKeys(), ...keys];
    provide();
    return { keys: keys.map(({ kid }) => kid) };
  },
  replace() {
    keys = [rsa, ...newKeys()];
    provide();
    return { keys: keys.map(({ kid }) => kid) };
  },
  count: () => ({ fetched }),
};

provide();
for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(`${JSON.stringify(await commands[line]())}\n`);
}
