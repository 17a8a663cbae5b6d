import { fileURLToPath } from "node:url";
import { defineConfig } from "@graphql-mesh/compose-cli";
import { loadGrpcSubgraph } from "@omnigraph/grpc";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));
const subgraph = (name, file) => ({
  sourceHandler: loadGrpcSubgraph(name, {
    endpoint: process.env.SERVICES,
    source: { file: `${PROTOS}/quanyu/${file}.proto`, load: { includeDirs: [PROTOS, process.env.WELL_KNOWN], defaults: true } },
    prefixQueryMethod: ["get", "list", "search", "batch"],
  }),
});

export const composeConfig = defineConfig({
  subgraphs: [subgraph("commerce", "commerce/v1/orders"), subgraph("member", "member/v1/identity")],
  additionalTypeDefs: `
    extend type quanyu__commerce__v1__OrderLine {
      offer: quanyu__commerce__v1__Offer
        @resolveTo(
          sourceName: "commerce"
          sourceTypeName: "Query"
          sourceFieldName: "quanyu_commerce_v1_CatalogService_BatchGetOffers"
          keyField: "offer_id"
          keysArg: "input.ids"
          result: "offers"
          requiredSelectionSet: "{ offer_id }"
        )
    }
  `,
});
