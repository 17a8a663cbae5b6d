"""What a district stages with its brands, the coupon each gives and how many of them."""
