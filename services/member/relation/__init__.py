"""The consumer asset: interactions, and the stage and closeness that follow from them."""
