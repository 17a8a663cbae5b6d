// The three pages on mercurius with jit: a schema of just what they ask for, resolvers written by hand, loaders for what is behind an id.
//
// node mercurius.mjs ADDRESS_OF_SERVICES     prints its address

import { fileURLToPath } from "node:url";
import fastify from "fastify";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import mercurius from "mercurius";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));
const SCHEMA = `
  type Text { zh: String en: String }
  type Money { amount: String! currency: String! }
  type Attribute { name: String! value: String! }
  type Good { variantId: ID! price: Money attributes: [Attribute!]! }
  type Offer { id: ID! category: String name: Text priceFrom: Money goods: [Good!]! }
  type PageInfo { endCursor: String hasNextPage: Boolean! }
  type Offers { nodes: [Offer!]! pageInfo: PageInfo! }
  type Line { quantity: Int! paid: Money offer: Offer }
  type Order { id: ID! state: String! placedAt: String total: Money lines: [Line!]! }
  type Orders { nodes: [Order!]! pageInfo: PageInfo! }
  type Consumer { id: ID! displayName: String }
  type Query {
    offer(id: ID!): Offer
    offers(first: Int!): Offers
    consumer(id: ID!): Consumer
    orders(consumerId: ID!, first: Int!): Orders
  }
`;

const definition = loader.loadSync(
  ["catalog", "orders"].map((name) => `quanyu/commerce/v1/${name}.proto`).concat("quanyu/member/v1/identity.proto"),
  { includeDirs: [PROTOS], longs: Number, enums: String, defaults: true },
);
const { commerce, member } = grpc.loadPackageDefinition(definition).quanyu;
const address = process.argv[2];

/** A client of a service, its rpcs as functions that promise their answers. */
function client(Service) {
  const made = new Service(address, grpc.credentials.createInsecure());
  return (rpc, request) =>
    new Promise((resolve, reject) => made[rpc](request, (error, answer) => (error ? reject(error) : resolve(answer))));
}

const catalog = client(commerce.v1.CatalogService);
const orders = client(commerce.v1.OrderService);
const identity = client(member.v1.IdentityService);
const batched = async (ids) => {
  const { offers } = await catalog("BatchGetOffers", { ids });
  const found = new Map(offers.map((offer) => [offer.id, offer]));
  return ids.map((id) => found.get(id) ?? null);
};

const resolvers = {
  Query: {
    offer: async (_, { id }) => (await batched([id]))[0],
    offers: async (_, { first }) => {
      const { offers, page } = await catalog("SearchOffers", { page: { first } });
      return { nodes: offers, pageInfo: page };
    },
    consumer: async (_, { id }) => (await identity("BatchGetConsumers", { ids: [id] })).consumers[0],
    orders: async (_, { consumerId, first }) => {
      const listed = await orders("ListOrders", { consumerId, page: { first } });
      return { nodes: listed.orders, pageInfo: listed.page };
    },
  },
  Money: { amount: ({ minor }) => (minor / 100).toFixed(2) },
  Good: {
    attributes: ({ attributes }) => Object.keys(attributes).sort().map((name) => ({ name, value: attributes[name] })),
  },
  Order: {
    state: ({ state }) => state.slice("ORDER_STATE_".length),
    placedAt: ({ placedAt }) => new Date(placedAt.seconds * 1000).toISOString().replace(".000Z", "Z"),
  },
};

const loaders = {
  Line: {
    offer: async (queries) => {
      const ids = [...new Set(queries.map(({ obj }) => obj.offerId))];
      const offers = await batched(ids);
      const found = new Map(ids.map((id, index) => [id, offers[index]]));
      return queries.map(({ obj }) => found.get(obj.offerId));
    },
  },
};

const app = fastify();
app.register(mercurius, { schema: SCHEMA, resolvers, loaders, jit: 1 });
const url = new URL(await app.listen({ host: "127.0.0.1", port: 0 }));
process.stdout.write(`${url.host}\n`);
