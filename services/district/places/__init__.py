"""Districts, the venues that stand in them, and consumers' visits."""
