"""Delivery of events: the relay of the publisher and the inbox of the subscriber."""
