"""Packs: one bundle of several brands' coupons for a visitor."""
