"""A PostgreSQL server of its own: made, started, stopped and removed under one folder."""

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

LOG_LINE_PREFIX = "%m [%p] %c %q%u@%d/%a "

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "18",
    "superuser_reserved_connections": "2",
    "shared_buffers": "64MB",
    "fsync": "off",
    "password_encryption": "scram-sha-256",
    "checkpoint_timeout": "30s",
    "autovacuum_naptime": "20s",
    "deadlock_timeout": "100ms",
    "work_mem": "512kB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": LOG_LINE_PREFIX,
    "log_connections": "on",
    "log_disconnections": "on",
    "log_statement": "all",
    "log_duration": "on",
    "log_checkpoints": "on",
    "log_lock_waits": "on",
    "log_temp_files": "0",
    "log_autovacuum_min_duration": "50ms",
    "log_parameter_max_length": "64",
}


def find_binaries() -> Path | None:
    """The newest folder of server binaries that Debian's packages installed, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


class PostgresServer:
    """One data directory and the server that runs over it; the server never runs as root."""

    def __init__(self, binaries: Path, folder: Path, port: int) -> None:
        self.binaries = binaries
        self.folder = folder
        self.data = folder / "data"
        self.bulk = folder / "bulk"
        self.port = port
        self.small_disk = False

    def create(self, bulk_megabytes: int) -> None:
        """Initialise the data directory and mount a small disk for the tablespace `bulk`."""
        self.folder.mkdir(mode=0o755, parents=True)
        self.bulk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={bulk_megabytes}m", "tmpfs", str(self.bulk)]
        self.small_disk = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        if not self.small_disk:
            print("no tmpfs may be mounted here: the full disk is played by temp_file_limit", file=sys.stderr)
        if os.getuid() == 0:
            owner = pwd.getpwnam("postgres")
            for path in (self.folder, self.bulk):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        options = ["--auth-host=scram-sha-256", "--auth-local=trust", "--username=postgres", "--data-checksums"]
        self.run("initdb", "-D", str(self.data), "--encoding=UTF8", "--locale=C", *options)
        settings = {**SETTINGS, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        if not self.small_disk:
            settings["temp_file_limit"] = f"{bulk_megabytes}MB"
        with (self.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def start(self, log: Path) -> None:
        """Start the server; it appends its standard error to `log`."""
        self.run("pg_ctl", "-D", str(self.data), "-l", str(log), "-w", "start")

    def stop(self) -> None:
        """Stop the server as soon as the last client has said goodbye: the instant at which the log is cut."""
        self.run("pg_ctl", "-D", str(self.data), "-m", "smart", "-w", "stop")

    def is_running(self) -> bool:
        """Whether a server holds the data directory."""
        return (self.data / "postmaster.pid").exists()

    def postmaster_pid(self) -> int:
        """The process id of the running server's first process."""
        return int((self.data / "postmaster.pid").read_text(encoding="utf-8").split()[0])

    def query(self, sql: str, database: str = "postgres") -> str:
        """What the superuser is answered to `sql` over the local socket."""
        options = ["-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", database]
        return self.run("psql", *options, "-XqAt", "-v", "ON_ERROR_STOP=1", text=sql).strip()

    def run(self, program: str, *arguments: str, text: str = "") -> str:
        """Run one of PostgreSQL's programs as the user `postgres` (or as oneself, where not root)."""
        user = "postgres" if os.getuid() == 0 else None
        done = subprocess.run(
            [str(self.binaries / program), *arguments],
            input=text,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if program != "pg_ctl" else subprocess.DEVNULL,
            text=True,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd="/",
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": "UTC"},
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stdout}")
        return done.stdout

    def remove(self) -> None:
        """Stop whatever runs, unmount the small disk and delete the folder."""
        if self.is_running():
            self.run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")
        if self.small_disk:
            subprocess.run(["umount", "-l", str(self.bulk)], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)
