"""`quanyu story`: a scripted demonstration, played through the gateway with the operations of the front ends and printed as a timeline."""
