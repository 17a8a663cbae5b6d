"""Outreach: bindings of consumers to guides, and the messages of guides."""
