"""Which guide looks after whom, and what they write."""
