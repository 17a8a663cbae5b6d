"""What every process stands on. Nothing here knows a scenario."""

from services.kit.cancellation import mend

mend()
