"""Child processes that end with their parent, even when the parent is killed and can do nothing any more."""

import os
import sys
from collections.abc import Sequence

# The child asks the kernel for the signal itself and then becomes the command: `preexec_fn` would fork a process whose threads
# (gRPC, the driver) may hold locks. PR_SET_PDEATHSIG is 1 and survives execve. A parent that died before the call is seen by its id.
TETHER = """
import ctypes, os, signal, sys
parent, number, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
ctypes.CDLL(None, use_errno=True).prctl(1, number, 0, 0, 0)
os.getppid() == parent or os._exit(1)
os.execvp(program, sys.argv[3:])
"""


def tethered(command: Sequence[str], signal_number: int) -> list[str]:
    """The command line that runs `command` so that it gets the signal when the calling thread ends. Elsewhere than on Linux: `command`."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-I", "-S", "-c", TETHER, str(os.getpid()), str(int(signal_number)), *command]
