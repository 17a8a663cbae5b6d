"""What every process stands on. Nothing here knows a scenario."""

import os

from services.kit._compat import mend

mend()
# gRPC's event engine hands what comes from thread to thread: without it an rpc takes a quarter less CPU on either side. A version that
# knows nothing else says so and goes on. Whoever runs the suite may choose otherwise.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
