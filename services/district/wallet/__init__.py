"""Coupons from being given to being spent, and back."""
