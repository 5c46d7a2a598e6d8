"""Isolates itself, then runs a program: `python -I -S _sandbox_launcher.py SETTINGS PROGRAM [ARGUMENT...]`, SETTINGS being JSON.

Three processes: the launcher makes the namespaces; its child, the first process of the PID namespace, mounts a root with nothing but
Python and system libraries in it; that one's child drops every privilege, takes the limits and becomes the program. When the first
process ends, the kernel kills all others of the namespace. What cannot be set up is one line on stderr and the exit code SETUP_FAILED;
the program itself has no stderr. It has no /proc and no writable place but /work, which is memory.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys

SETUP_FAILED = 97
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000  # the number of a system call is the same on every architecture since 5.1
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV = 1, 2, 4
NOBODY = 65534
INSIDE = 1000
"""The user in a user namespace. Not 0: a program of another user has no capabilities."""
INODES = 16384
"""Files and folders of a program."""
READ_ONLY = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *args):
    """A function of libc. Raises OSError where it fails."""
    plain = [a.encode() if isinstance(a, str) else a for a in args]
    if getattr(libc, name)(*plain):
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")


def may_change_user():
    """Whether this is root with other users to become; the root of a user namespace may be its only user."""
    with open("/proc/self/uid_map") as opened:
        ranges = [tuple(map(int, line.split())) for line in opened]
    return os.geteuid() == 0 and any(start <= NOBODY < start + count for start, _, count in ranges)


def make_namespaces():
    """Of mounts, processes, network, IPC and host name; of users too, unless this is a root that needs none."""
    apart = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
    user, group = os.geteuid(), os.getegid()
    if may_change_user():
        call("unshare", apart)
        return
    call("unshare", apart | CLONE_NEWUSER)
    for file, text in (("setgroups", "deny"), ("uid_map", f"{INSIDE} {user} 1"), ("gid_map", f"{INSIDE} {group} 1")):
        with open(f"/proc/self/{file}", "w") as opened:
            opened.write(text)


def mount_root(root, libraries, size):
    """Make `root` the root of all files: read-only system libraries, and /work, a file system in memory of `size` bytes."""
    call("mount", None, "/", None, MS_REC | MS_PRIVATE, None)
    call("mount", "tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    bound = []
    for path in (*READ_ONLY, *libraries):
        if not os.path.exists(path) or any(path == b or path.startswith(b + "/") for b in bound):
            continue
        inside = root + path
        os.makedirs(os.path.dirname(inside), mode=0o755, exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
            continue
        if os.path.isdir(path):
            os.mkdir(inside, 0o755)
        else:
            os.close(os.open(inside, os.O_CREAT, 0o644))
        call("mount", path, inside, None, MS_BIND | MS_REC, None)
        protect(inside, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | (0 if path.startswith("/dev/") else MOUNT_ATTR_NODEV))
        bound.append(path)
    os.mkdir(f"{root}/work", 0o755)
    # The kernel's memory for names and inodes is no part of `size`.
    call("mount", "tmpfs", f"{root}/work", "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes={INODES},mode=777")
    os.symlink("/work", f"{root}/tmp")
    os.chdir(root)
    call("pivot_root", ".", ".")
    call("umount2", ".", MNT_DETACH)
    protect("/", MOUNT_ATTR_RDONLY, flags=0)
    os.chdir("/work")


def protect(path, attributes, flags=AT_RECURSIVE):
    attr = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    call("syscall", SYS_MOUNT_SETATTR, AT_FDCWD, path, flags, ctypes.byref(attr), ctypes.c_size_t(32))


def drop_root(number):
    """Change from root to a user id that no other process has, so that its processes are counted alone; or to 65534."""
    if os.geteuid():
        return
    os.setgroups([])
    for user in (2**30 + number, NOBODY):
        try:
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            return
        except OSError:
            continue
    raise OSError("root cannot become another user")


def limit(settings):
    for name, value in settings["limits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(number)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (value, value))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class Filter(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_calls(instructions):
    """Take the filter of system calls. After PR_SET_NO_NEW_PRIVS, without which only root may."""
    if instructions:
        packed = b"".join(struct.pack("HBBI", *i) for i in instructions)
        call("prctl", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(len(instructions), packed)), 0, 0)


def become(settings, program):
    """Drop what this process may, and become the program."""
    os.setsid()
    null = os.open("/dev/null", os.O_WRONLY)
    errors = os.dup(2)  # closed by exec
    drop_root(settings["number"])
    limit(settings)
    for number in range(1, signal.NSIG):
        if number not in (signal.SIGKILL, signal.SIGSTOP) and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    refuse_calls(settings["filter"])
    os.dup2(null, 2)
    try:
        os.execve(
            program[0], program, {"PATH": "/usr/bin:/bin", "HOME": "/work" if settings["namespaces"] else os.getcwd(), "LANG": "C.UTF-8"}
        )
    except OSError as error:
        os.write(errors, f"execve: {error}".encode())
        os._exit(SETUP_FAILED)


def waited(child):
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def first(settings, program):
    """The first process of a PID namespace: it waits for the program, and with it everything ends."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    mount_root(settings["root"], settings["libraries"], settings["disk"])
    return spawn(lambda: become(settings, program))


def spawn(run):
    child = os.fork()
    if child == 0:
        guarded(run)
    return waited(child)


def guarded(run):
    try:
        code = run()
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}".encode())
        code = SETUP_FAILED
    os._exit(code)


def main():
    settings, program = json.loads(sys.argv[1]), sys.argv[2:]
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not settings["namespaces"]:
        os.chdir(settings["root"])
        if os.geteuid() == 0:
            os.chmod(settings["root"], 0o777)
        return spawn(lambda: become(settings, program))
    make_namespaces()
    return spawn(lambda: first(settings, program))


if __name__ == "__main__":
    guarded(main)
