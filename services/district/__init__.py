"""The shopping district: places and visits, campaigns and budgets, matching, packs of coupons and the wallet they go into."""
