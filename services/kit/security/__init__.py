"""Authorization, principals, field encryption and webhook signatures."""
