"""Orders: placed from goods and coupons, paid exactly once; and orders imported from an earlier system."""
