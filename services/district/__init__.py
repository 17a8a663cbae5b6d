"""The district service: districts, venues and visits, campaigns and budgets, matching, packs of coupons, and the wallet."""
