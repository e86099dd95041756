"""Whether a directory is on a network file system."""

from __future__ import annotations

import os
import re

_LOCAL_FUSE = "fuse-overlayfs|portal|lxcfs|mergerfs|snapfuse|ntfs-3g|exfat|gocryptfs|encfs|bindfs|unionfs"
_NETWORK = re.compile(rf"nfs\d?|cifs|smb\w*|9p|afs|ceph|davfs|glusterfs|fuse\.(?!(?:{_LOCAL_FUSE})$).*")


def is_network_mount(path: str, table: str = "/proc/self/mounts") -> bool:
    """Return whether `path`, or its nearest folder that exists, is on a network file system; False if unknown.

    Parallel file systems of clusters (Lustre, GPFS, BeeGFS) count as local: they are such a machine's disk for data.
    `table` is the kernel's list of mounts, see ``proc(5)``: device, directory and type, in the order of mounting.
    """
    path = os.path.realpath(path)
    found, kind = "", ""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            for line in lines:
                _, directory, fs_type, *_ = line.split(" ")
                directory = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), directory)
                if len(directory) >= len(found) and f"{path}/".startswith(f"{directory.rstrip('/')}/"):
                    found, kind = directory, fs_type
    except (OSError, ValueError):
        return False
    return _NETWORK.fullmatch(kind) is not None
