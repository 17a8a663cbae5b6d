"""From goods and coupons to a paid order, exactly once; and the orders of the time before."""
