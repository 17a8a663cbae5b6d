"""Relations (consumer assets): interactions, and the stage and closeness that follow from them."""
