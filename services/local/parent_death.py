"""Parent-death signal: child processes that end with their parent, even if the parent is killed."""

import os
import sys
from collections.abc import Sequence

# The child sets the signal itself and then executes the command: `preexec_fn` would fork a process whose threads (gRPC, the driver)
# may hold locks. PR_SET_PDEATHSIG is 1 and survives execve. A parent that ended before the call is detected by its process id.
LAUNCHER = """
import ctypes, os, signal, sys
parent, number, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0)
os.getppid() == parent or os._exit(1)
os.execvp(program, sys.argv[3:])
"""


def with_parent_death_signal(command: Sequence[str], signal_number: int) -> list[str]:
    """Returns a command line that runs `command` with a signal at the end of the calling thread; on other systems than Linux, `command`."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), str(int(signal_number)), *command]
