"""How much memory a training took."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import torch


def begin_peak(device: torch.device) -> None:
    """Forgets the peak of what ran before, where that is possible (on a GPU)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was in use: by tensors on a GPU since `begin_peak`, else by the whole process; 0 where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _windows_counters().get("peak", 0) if os.name == "nt" else _posix_peak_bytes()


def memory_figures(device: torch.device) -> dict[str, dict[str, int]]:
    """Bytes in use now and at the most: by the process ("main"), and by tensors on a GPU ("device", only where there is one).

    Unlike `peak_memory_bytes` it may be asked at any time by another thread; figures that the system does not tell are left out.
    """
    figures = {"main": {"now": memory_now_bytes(), "peak": peak_memory_bytes(torch.device("cpu"))}}
    if device.type == "cuda":
        figures["device"] = {"now": torch.cuda.memory_allocated(device), "peak": torch.cuda.max_memory_allocated(device)}
    return {name: {kind: value for kind, value in own.items() if value} for name, own in figures.items()}


def memory_now_bytes() -> int:
    """What the process holds now; 0 where the system does not tell (macOS)."""
    if os.name == "nt":
        return _windows_counters().get("now", 0)
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def _posix_peak_bytes() -> int:
    """Linux's count for this program where there is one: getrusage also counts what the parent held when it started this process."""
    with suppress(OSError), open("/proc/self/status", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kilobytes


def _windows_counters() -> dict[str, int]:
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS (psapi.h)."""

        _fields_ = [
            ("cb", wintypes.DWORD), ("PageFaultCount", wintypes.DWORD),
            ("PeakWorkingSetSize", ctypes.c_size_t), ("WorkingSetSize", ctypes.c_size_t),
            ("QuotaPeakPagedPoolUsage", ctypes.c_size_t), ("QuotaPagedPoolUsage", ctypes.c_size_t),
            ("QuotaPeakNonPagedPoolUsage", ctypes.c_size_t), ("QuotaNonPagedPoolUsage", ctypes.c_size_t),
            ("PagefileUsage", ctypes.c_size_t), ("PeakPagefileUsage", ctypes.c_size_t),
        ]  # fmt: skip

    counters = Counters(cb=ctypes.sizeof(Counters))
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined,unused-ignore]
    kernel.GetCurrentProcess.restype = wintypes.HANDLE
    kernel.K32GetProcessMemoryInfo.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
    done = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb)
    return {"now": int(counters.WorkingSetSize), "peak": int(counters.PeakWorkingSetSize)} if done else {}
