"""The coupons of several brands that a visitor is given in one bundle."""
