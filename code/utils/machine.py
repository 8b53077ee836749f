"""What the machine lends this process, and what is said where that is too little."""

import errno
import getpass
import math
import os
import re
import resource
import shutil
import sys
from pathlib import Path


def usable_cpus(process: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """The cores that this process may use: those of its affinity, and no more than the quotas of
    its control groups, as schedulers and containers set them; at least 1.

    A quota binds from any level, so all folders from the group's own to the topmost are asked.
    """
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        lines = (process / "cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "cpu", "cpu,cpuacct", "cpuacct,cpu"):  # "": version 2
            top = groups / "cpu" if controllers else groups
            folder = top / path.strip("/")
            for level in (folder, *folder.parents):
                cores = min(cores, quota_of(level))
                if level == top:
                    break
    return max(1, math.ceil(cores))


def quota_of(group: Path) -> float:
    """Cores of a control group of either version; infinite where it is there without a quota, or
    not there: in a container only its own part of the tree is."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = ((group / name).read_text().strip() for name in names)
    except OSError:
        return math.inf
    return math.inf if quota in ("max", "-1") else int(quota) / int(period)


ANOTHER_FOLDER = "choose a folder that can be written"
MENDS = {  # of errors of the operating system
    errno.ENOSPC: "free some space, or choose another folder",
    errno.EDQUOT: "free some of your quota, or choose another folder",
    errno.EROFS: ANOTHER_FOLDER,
    errno.EACCES: ANOTHER_FOLDER,
    errno.EPERM: ANOTHER_FOLDER,
    errno.EMFILE: "allow more open files, such as ulimit -n 4096",
    errno.ENOMEM: "memory is short; give a smaller --num_workers, or --batch_size",
}
# What PyTorch says where processes that read data died, or could not hand over what they had read
WORKERS = r"DataLoader worker \(pid|open files|shared memory|unable to mmap|ancdata|new thread"
MEMORY = r"out of memory|allocate memory"


def shortage(error: Exception) -> str:
    """A line that says what the machine lacks and what mends it; "" where that is not the cause."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    what = lines[0]
    if "in DataLoader worker process" in what:  # then a traceback follows, and the error itself
        what = lines[-1].split(": ", 1)[-1]
    if isinstance(error, (ConnectionError, EOFError)):  # while one handed over what it had read
        what = f"a DataLoader worker (pid unknown) has ended ({what})"
    elif isinstance(error, UnicodeError):
        return f"{what}: this environment cannot name it; set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
    elif isinstance(error, OSError):
        if "temporary directory" in what:
            return f"{what}; set TMPDIR to a folder that can be written"
        if refused := re.match(r"\[Errno (\d+)\] (.*?)(?:: '(.*)')?$", what):
            number, what, file = refused.groups()
            mend = MENDS.get(int(number), "")
            if file:
                what = f"{file}: {what}"
            elif mend:  # what processes share
                mend += ", or give --num_workers 0, which does without /dev/shm"
            what = "; ".join(filter(None, [what, mend]))
        return what
    if isinstance(error, MemoryError) or re.search(MEMORY, what):
        return f"{what}; give a smaller --batch_size, or --accumulate 2 and more"
    if re.search(WORKERS, what):
        shared = shutil.disk_usage("/dev/shm").free / 1e6 if Path("/dev/shm").is_dir() else 0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"{what.split('. ')[0].rstrip('.')}, perhaps for want of memory, of shared memory "
            f"(/dev/shm has {shared:.0f} MB free) or of open files (ulimit -n is {files}); give "
            "--num_workers 0, or raise the limit"
        )
    return ""


try:
    getpass.getuser()
except (KeyError, OSError):  # a container may run as a number without a name, which torch asks for
    os.environ["LOGNAME"] = f"{os.getuid()}"
