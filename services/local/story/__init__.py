"""`quanyu story`: the walk of the talk, played through the gateway as the front ends would, and told as one timeline."""
