"""The member service: people, what they allow, how near they are to brands, and who looks after them."""
