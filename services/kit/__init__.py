"""What every process stands on. Nothing here knows a scenario."""
