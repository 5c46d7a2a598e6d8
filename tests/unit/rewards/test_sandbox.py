"""Programs that try to escape, to stay or to take everything. docs/sandbox.md lists them."""

import os
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from align.errors import UserError
from align.rewards import _sandbox
from align.rewards._sandbox import OUTPUT, Sandbox, SandboxFailed

BOX = Sandbox("namespaces", 256 * 2**20, 8)
SECRET = "ALIGN_SECRET_OF_THE_PARENT"


@pytest.fixture(scope="module", autouse=True)
def allowed():
    BOX.start()


def run(code: str, seconds: float = 5.0, stdin: bytes = b"", box: Sandbox = BOX):
    return box.run(["-c", textwrap.dedent(code)], stdin, seconds)


def readable_python() -> str:
    """One that other users may run too, as `limits` needs of root."""
    found = os.path.realpath(sys.executable)
    if os.geteuid() or all(Path(p).stat().st_mode & 1 for p in Path(found).parents):
        return found
    return os.path.realpath("/usr/bin/python3")


LIMITS = Sandbox("limits", 256 * 2**20, 8, readable_python())


@pytest.mark.parametrize("box", [BOX, LIMITS], ids=["namespaces", "limits"])
def test_a_program_has_its_input_and_gives_its_output_and_code(box):
    ended = run("import sys; print(sys.stdin.read()[::-1]); sys.exit(3)", stdin=b"abc", box=box)
    assert (ended.output, ended.code) == (b"cba\n", 3)


def test_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()  # it is there for this process
        ended = run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)")
    assert ended.code == 1


def test_no_writing_outside_of_its_folder_which_is_gone_afterwards(tmp_path):
    (tmp_path / "file").write_text("kept")
    ended = run(f"""
        import os, pathlib
        for place in ({str(tmp_path)!r}, {str(Path.home())!r}, "/etc", "/usr", "/", "/dev", "/var/tmp"):
            try:
                pathlib.Path(place, "escaped").write_text("x")
                print("wrote to", place)
            except OSError:
                pass
        pathlib.Path("mine").write_text("y" * 10)
        pathlib.Path("/tmp/mine").read_text()
        print(sorted(os.listdir()))
        """)
    assert ended.output == b"['mine']\n"
    assert sorted(os.listdir(tmp_path)) == ["file"]
    assert run("import os; print(os.listdir())").output == b"[]\n"


def test_no_file_of_the_user_is_there(tmp_path):
    (tmp_path / "secret").write_text("x")
    os.chmod(tmp_path / "secret", 0o644)
    ended = run(f"""
        import os
        os.symlink({str(tmp_path / "secret")!r}, "link")
        for path in ("link", {str(tmp_path / "secret")!r}, "/proc/self/mem", "/proc/1/environ", "/etc/passwd", {__file__!r}):
            print(os.path.exists(path))
        """)
    assert ended.output.split() == [b"False"] * 6


def test_no_environment_and_no_descriptors(monkeypatch, tmp_path):
    monkeypatch.setenv(SECRET, "1")
    with open(tmp_path / "open", "w") as kept:
        os.set_inheritable(kept.fileno(), True)
        ended = run("""
            import os
            def is_open(n):
                try:
                    return bool(os.fstat(n))
                except OSError:
                    return False
            print(sorted(os.environ), [n for n in range(60) if is_open(n)])
            """)
    assert ended.output == b"['HOME', 'LANG', 'PATH'] [0, 1, 2]\n"


def test_a_fork_bomb_is_limited_and_leaves_nothing():
    ended = run("""
        import os, time
        made = 0
        try:
            while True:
                if os.fork() == 0:
                    time.sleep(60)
                made += 1
        except BlockingIOError:
            print(made)
        """)
    assert 0 < int(ended.output) < 8


def test_a_memory_bomb_fails():
    small = Sandbox("namespaces", 64 * 2**20, 8)
    assert run("bytearray(2**20)", box=small).code == 0
    assert run("bytearray(2**27)", box=small).code == 1
    ended = run("for i in range(9): open(str(i), 'wb').write(bytes(2**23)); print(i, flush=True)", box=small)
    assert ended.code == 1 and b"6" in ended.output


def test_a_loop_ends_at_the_limit():
    began = time.monotonic()
    assert run("while True: pass", 0.3).code is None
    assert time.monotonic() - began < 3


def test_signals_are_ignored_in_vain():
    began = time.monotonic()
    ended = run(
        """
        import signal, time
        for n in range(1, signal.NSIG):
            try:
                signal.signal(n, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        print("ready", flush=True)
        time.sleep(60)
        """,
        0.5,
    )
    assert (ended.output, ended.code) == (b"ready\n", None) and time.monotonic() - began < 3


def alive(mark: str) -> bool:
    return any(mark.encode() in p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists())


def test_no_process_outlives_the_program():
    mark = f"outlives{os.getpid()}"
    code = f"""
        import os, subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)  # {mark}"], start_new_session=True, stdout=-3)
        if os.fork() == 0:
            os.setsid()
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)  # {mark}"])
        """
    began = time.monotonic()
    run(code, 1.0)
    assert time.monotonic() - began < 4
    deadline = time.monotonic() + 2
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(mark)


def test_output_is_limited():
    began = time.monotonic()
    ended = run("while True: print('a' * 10**5)", 10)
    assert ended.code is None and len(ended.output) == OUTPUT and time.monotonic() - began < 5


def test_the_parent_cannot_be_killed_or_seen():
    ended = run(f"""
        import os, signal
        for pid in ({os.getpid()}, os.getppid(), 1):
            try:
                os.kill(pid, signal.SIGTERM)
            except OSError:
                pass
        try:
            os.kill(-1, signal.SIGTERM)
        except OSError:
            pass
        print("alive")
        """)
    assert ended.output in (b"alive\n", b"")  # kill(-1) is all that the program can see, itself


def test_new_namespaces_give_no_rights():
    ended = run("""
        import ctypes, os
        libc = ctypes.CDLL(None)
        libc.unshare(0x10000000 | 0x20000)
        print(libc.mount(None, b"/usr", None, 4096 | 32, None), libc.mount(b"proc", b"/work", b"proc", 0, None) and "no proc")
        open("/usr/escaped", "w")
        """)
    assert ended.code == 1 and not Path("/usr/escaped").exists()


def test_a_time_limit_that_interrupts_leaves_no_process(monkeypatch):
    class Interrupted(BaseException):
        pass

    def interrupt(*_):
        raise Interrupted

    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    monkeypatch.setattr(_sandbox, "_watched", interrupt)
    with pytest.raises(Interrupted):
        run("import time; time.sleep(60)")
    assert started[0].returncode is not None


def test_isolation_that_cannot_be_had_is_refused(monkeypatch):
    def fail(*_):
        raise SandboxFailed("unshare: Operation not permitted")

    monkeypatch.setattr(Sandbox, "run", fail)
    with pytest.raises(UserError, match=r"\(unshare: Operation not permitted\).* isolation: limits"):
        BOX.start()


X86 = os.uname().machine == "x86_64"
LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.mark.parametrize(
    "code",
    [
        "os.memfd_create('a')",  # each file of it may be as large as memory_mb
        "ctypes.set_errno(0); assert libc.shmget(0, 2**20, 0o1600) >= 0",
        "assert libc.msgget(0, 0o1600) >= 0",
        "assert libc.unshare(0x10000000) == 0",
        f"assert libc.syscall({56 if X86 else 220}, 0x10000011, 0, 0, 0, 0) > 0",
        f"assert libc.syscall({250 if X86 else 219}, 0, -3, 1) > 0",
    ],
    ids=["memfd", "shared memory", "messages", "unshare", "clone", "keys"],
)
def test_calls_that_reach_uncounted_memory_capabilities_or_keys_are_refused(code):
    assert run(LIBC + code).code == 1


def test_names_without_end_are_limited():
    ended = run("""
        import os
        try:
            for i in range(50_000): os.mkdir(str(i))
        except OSError as error:
            print(error.errno)
        """)
    assert ended.output == b"28\n"


def test_threads_and_processes_start_without_the_call_whose_flags_no_filter_sees():
    ended = run(
        "import subprocess, threading; t = threading.Thread(target=subprocess.run, args=(['/bin/true'],)); t.start(); t.join(); print(1)"
    )
    assert ended.output == b"1\n"


def test_a_machine_whose_calls_have_no_numbers_here_is_refused(monkeypatch):
    monkeypatch.setattr(_sandbox, "instructions", lambda machine: (_ for _ in ()).throw(ValueError(f"no filter for {machine}")))
    with pytest.raises(UserError, match="no filter for"):
        BOX.start()
