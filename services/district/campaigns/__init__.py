"""Campaigns of a district, and the coupon budget of each brand that takes part."""
