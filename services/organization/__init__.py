"""The organization service: org chart and staff, targets and credits, tasks."""
