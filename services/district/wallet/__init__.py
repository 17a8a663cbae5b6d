"""The wallet: coupons, and the locks of orders on them."""
