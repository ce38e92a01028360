"""A process under ptrace: its file-system calls counted, one of them failed, or death before one.

What is seen is what the kernel sees: whichever library makes the call, and whatever Python calls
it. Linux on x86-64; the child traces itself, so no right is needed that it does not have.
"""

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

NAMES = {
    1: "write",
    3: "close",
    18: "write",
    20: "write",
    74: "fsync",
    75: "fsync",
    76: "truncate",
    77: "truncate",
    82: "rename",
    83: "mkdir",
    84: "rmdir",
    86: "link",
    87: "unlink",
    257: "open",
    258: "mkdir",
    263: "unlink",
    264: "rename",
    265: "link",
    316: "rename",
    326: "write",
}
"""Numbers of the calls of x86-64 that change a file system, or promise something about it."""
TRACEME, GETREGS, SETREGS, SYSCALL, SETOPTIONS = 0, 12, 13, 24, 0x4200
SYSGOOD_AND_EXITKILL = 1 | 0x100000
RAX, RDX, RSI, RDI, ORIG_RAX = 10, 12, 13, 14, 15
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
STANDARD = (0, 1, 2)

Registers = ctypes.c_ulonglong * 27
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Ended:
    """How a traced process ended.

    Attributes:
        calls: Names of its file-system calls, in order, as far as it came.
        killed: Whether it died by SIGKILL.
        status: Its exit status otherwise.
    """

    calls: tuple[str, ...]
    killed: bool
    status: int


def traced(work: Callable[[], int], way: str = "watched", number: int = 0) -> Ended:
    """Do ``work`` in a child whose file-system call ``number`` (from 1) meets a fault.

    Args:
        work: Returns the exit status; an exception is status 70.
        way: ``watched``: no fault; ``lost``: the call fails with ENOSPC and does nothing; ``done``:
            it fails and is done all the same; ``killed``: SIGKILL before it.
        number: Which call.
    """
    child = os.fork()
    if child == 0:
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        status = 70
        try:
            status = work()
        finally:
            os._exit(status)
    os.waitpid(child, 0)
    _ptrace(SETOPTIONS, child, SYSGOOD_AND_EXITKILL)
    return _follow(child, way, number)


def _follow(child: int, way: str, number: int) -> Ended:
    calls: list[str] = []
    registers, entering, hit, deliver = Registers(), True, False, 0
    while True:
        _ptrace(SYSCALL, child, deliver)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return Ended(tuple(calls), os.WTERMSIG(status) == signal.SIGKILL, -1)
        if os.WIFEXITED(status):
            return Ended(tuple(calls), killed=False, status=os.WEXITSTATUS(status))
        deliver = 0
        if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            deliver = os.WSTOPSIG(status)
            continue
        if entering:
            _ptrace(GETREGS, child, ctypes.addressof(registers))
            name = _name(registers)
            if name:
                calls.append(name)
            hit = bool(name) and len(calls) == number
            if hit and way == "killed":
                os.kill(child, signal.SIGKILL)
            # Linux frees a descriptor even when close fails: that one is always done.
            elif hit and way == "lost" and name != "close":
                registers[ORIG_RAX] = 2**64 - 1
                _ptrace(SETREGS, child, ctypes.addressof(registers))
        elif hit and way in {"lost", "done"}:
            _ptrace(GETREGS, child, ctypes.addressof(registers))
            registers[RAX] = 2**64 - errno.ENOSPC
            _ptrace(SETREGS, child, ctypes.addressof(registers))
        entering = not entering


def _name(registers: "ctypes.Array[ctypes.c_ulonglong]") -> str:
    """The call's name, if it is one that counts: no read, and nothing about the standard streams."""
    name = NAMES.get(registers[ORIG_RAX], "")
    if name == "open" and not registers[RDX] & WRITING:
        return ""
    if name in {"write", "close"} and registers[RDI] in STANDARD:
        return ""
    return name


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) == -1:
        code = ctypes.get_errno()
        if code != errno.ESRCH:  # gone between two looks: waitpid says how
            raise OSError(code, os.strerror(code))
