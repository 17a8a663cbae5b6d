"""Batch loaders of references, connections and `node`, named by what they load."""

from gateway.schema.batch_loader import BatchLoader
from quanyu.commerce.v1 import catalog_pb2, orders_pb2, stock_pb2
from quanyu.district.v1 import campaigns_pb2, packs_pb2, places_pb2, wallet_pb2
from quanyu.member.v1 import consent_pb2, identity_pb2, outreach_pb2, relation_pb2
from quanyu.organization.v1 import chart_pb2, targets_pb2, tasks_pb2

brand_by_id = BatchLoader(chart_pb2.BatchGetBrandsRequest)
org_unit_by_id = BatchLoader(chart_pb2.BatchGetOrgUnitsRequest)
store_by_id = BatchLoader(chart_pb2.BatchGetStoresRequest)
staff_by_id = BatchLoader(chart_pb2.BatchGetStaffRequest)
org_units_below = BatchLoader(chart_pb2.BatchListOrgUnitsRequest, key="org_unit_id", keys_max=100)
staff_of_store = BatchLoader(chart_pb2.BatchListStaffRequest, key="store_id", keys_max=100)
task_by_id = BatchLoader(tasks_pb2.BatchGetTasksRequest)
tasks_of_staff = BatchLoader(tasks_pb2.BatchListTasksRequest, keys="staff_ids", key="key", keys_max=100)
tasks_of_store = BatchLoader(tasks_pb2.BatchListTasksRequest, keys="store_ids", key="key", keys_max=100)
credit_by_order = BatchLoader(targets_pb2.BatchGetCreditsRequest)
scorecard_of_org_unit = BatchLoader(targets_pb2.BatchGetScorecardsRequest, keys="org_unit_ids", key="org_unit_id", keys_max=100)
scorecard_of_store = BatchLoader(targets_pb2.BatchGetScorecardsRequest, keys="store_ids", key="store_id", keys_max=100)
scorecard_of_brand = BatchLoader(targets_pb2.BatchGetScorecardsRequest, keys="brand_ids", key="brand_id", keys_max=100)
"""The three scorecard loaders take the days and the currency as parameters."""
credits_of_staff = BatchLoader(targets_pb2.BatchListCreditsRequest, keys="staff_ids", key="key", keys_max=100)
credits_of_store = BatchLoader(targets_pb2.BatchListCreditsRequest, keys="store_ids", key="key", keys_max=100)

consumer_by_id = BatchLoader(identity_pb2.BatchGetConsumersRequest)
identities_of_consumer = BatchLoader(identity_pb2.BatchListIdentitiesRequest, key="consumer_id", value="identities", keys_max=100)
links_of_consumer = BatchLoader(identity_pb2.BatchListLinksRequest, key="consumer_id", value="links", keys_max=100)
outreach_by_id = BatchLoader(outreach_pb2.BatchGetOutreachesRequest)
binding_by_consumer = BatchLoader(outreach_pb2.BatchGetBindingsRequest, key="consumer_id", value="binding")
"""Takes `brand_id` as a parameter."""
relation_by_consumer = BatchLoader(relation_pb2.BatchGetRelationsRequest, key="consumer_id", value="relation")
"""Takes `brand_id` as a parameter."""
relations_of_consumer = BatchLoader(
    relation_pb2.BatchListRelationsRequest, keys="consumer_ids", items="consumers", key="consumer_id", keys_max=100
)
relations_of_brand = BatchLoader(relation_pb2.BatchListRelationsRequest, keys="brand_ids", items="brands", key="brand_id", keys_max=100)
transitions_of_relation = BatchLoader(relation_pb2.BatchListTransitionsRequest, key="relation_id", keys_max=100)
interactions_of_relation = BatchLoader(relation_pb2.BatchListInteractionsRequest, key="relation_id", keys_max=100)
consents_of_consumer = BatchLoader(consent_pb2.BatchListConsentsRequest, key="consumer_id", keys_max=100)
inbox_of_consumer = BatchLoader(outreach_pb2.BatchListInboxRequest, key="consumer_id", keys_max=100)
clients_of_staff = BatchLoader(outreach_pb2.BatchListClientsRequest, key="staff_id", keys_max=100)
outreaches_of_staff = BatchLoader(outreach_pb2.BatchListOutreachesRequest, keys="staff_ids", key="key", keys_max=100)
outreaches_of_store = BatchLoader(outreach_pb2.BatchListOutreachesRequest, keys="store_ids", key="key", keys_max=100)
outreaches_of_brand = BatchLoader(outreach_pb2.BatchListOutreachesRequest, keys="brand_ids", key="key", keys_max=100)

product_by_id = BatchLoader(catalog_pb2.BatchGetProductsRequest)
variant_by_id = BatchLoader(catalog_pb2.BatchGetVariantsRequest)
variants_of_product = BatchLoader(catalog_pb2.BatchListVariantsRequest, key="product_id", is_list=True, keys_max=100)
offer_by_id = BatchLoader(catalog_pb2.BatchGetOffersRequest)
offers_of_brand = BatchLoader(catalog_pb2.BatchListOffersRequest, keys="brand_ids", key="brand_id", keys_max=100)
stock_by_id = BatchLoader(stock_pb2.BatchGetStocksRequest)
stocks_of_store = BatchLoader(stock_pb2.BatchListStocksRequest, keys="store_ids", key="key", keys_max=100)
hold_by_id = BatchLoader(stock_pb2.BatchGetHoldsRequest)
holds_of_consumer = BatchLoader(stock_pb2.BatchListHoldsRequest, keys="consumer_ids", key="key", keys_max=100)
holds_of_store = BatchLoader(stock_pb2.BatchListHoldsRequest, keys="store_ids", key="key", keys_max=100)
order_by_id = BatchLoader(orders_pb2.BatchGetOrdersRequest)
destination_of_order = BatchLoader(orders_pb2.BatchGetDestinationsRequest, key="order_id", value="destination")
orders_of_consumer = BatchLoader(orders_pb2.BatchListOrdersRequest, keys="consumer_ids", key="key", keys_max=100)
orders_of_store = BatchLoader(orders_pb2.BatchListOrdersRequest, keys="store_ids", key="key", keys_max=100)
orders_of_brand = BatchLoader(orders_pb2.BatchListOrdersRequest, keys="brand_ids", key="key", keys_max=100)

district_by_id = BatchLoader(places_pb2.BatchGetDistrictsRequest)
venue_by_id = BatchLoader(places_pb2.BatchGetVenuesRequest)
venues_of_district = BatchLoader(places_pb2.BatchListVenuesRequest, keys="district_ids", key="district_id", keys_max=100)
visit_by_id = BatchLoader(places_pb2.BatchGetVisitsRequest)
campaign_by_id = BatchLoader(campaigns_pb2.BatchGetCampaignsRequest)
campaigns_of_district = BatchLoader(campaigns_pb2.BatchListCampaignsRequest, key="district_id", keys_max=100)
participants_of_campaign = BatchLoader(campaigns_pb2.BatchListParticipantsRequest, key="campaign_id", keys_max=100)
budget_by_id = BatchLoader(campaigns_pb2.BatchGetBudgetsRequest)
budgets_of_brand = BatchLoader(campaigns_pb2.BatchListBudgetsRequest, key="brand_id", keys_max=100)
pack_by_id = BatchLoader(packs_pb2.BatchGetPacksRequest)
packs_of_consumer = BatchLoader(packs_pb2.BatchListPacksRequest, key="consumer_id", keys_max=100)
coupon_by_id = BatchLoader(wallet_pb2.BatchGetCouponsRequest)
coupons_of_consumer = BatchLoader(wallet_pb2.BatchListCouponsRequest, keys="consumer_ids", key="key", keys_max=100)
coupons_of_brand = BatchLoader(wallet_pb2.BatchListCouponsRequest, keys="brand_ids", key="key", keys_max=100)
