"""A SLURM with accounting: a database and slurmdbd of their own, so that limits of users hold.

    with accounting(folder) as lines, slurm(folder / "slurm", nodes=1, accounting=lines) as environment:
        subprocess.run(["sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=2"], env=environment)

Needs root, slurm-wlm, slurmdbd and mariadb-server. Everything that was started ends with the context.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_DBD = """\
AuthType=auth/none
DbdHost=localhost
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
_LINES = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStorageEnforce=associations,limits"""
_GRANTS = """\
create database slurm_acct_db;
create user slurm@localhost;
grant all on slurm_acct_db.* to slurm@localhost;
"""


@contextlib.contextmanager
def accounting(folder: Path) -> Iterator[str]:
    """What slurm.conf must say. `folder` must be readable by the user mysql."""
    data, plug = folder / "db", folder / "my.sock"
    for place in (folder, data):
        place.mkdir(exist_ok=True)
        shutil.chown(place, "mysql")
    where = ["--no-defaults", f"--datadir={data}", "--user=mysql"]
    root = "--auth-root-authentication-method=socket"
    subprocess.run(["mariadb-install-db", *where, root, "--skip-test-db"], check=True, capture_output=True)
    port = _free_port()
    config = folder / "slurmdbd.conf"
    config.write_text(_DBD.format(port=port, folder=folder))
    config.chmod(0o600)
    with contextlib.ExitStack() as started:
        small = ["--skip-networking", "--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]
        started.enter_context(_daemon(["mariadbd", *where, f"--socket={plug}", *small], folder / "mariadb.out"))
        ask = ["mariadb", "--no-defaults", "-S", plug, "-e"]
        _until(lambda: subprocess.run([*ask, "select 1"], capture_output=True).returncode == 0, "a database")
        subprocess.run([*ask, _GRANTS], check=True)
        plugged = {"MYSQL_UNIX_PORT": str(plug), "SLURM_CONF": str(config)}
        started.enter_context(_daemon(["slurmdbd", "-D"], folder / "slurmdbd.out", **plugged))
        _until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, "slurmdbd")
        yield _LINES.format(port=port)


@contextlib.contextmanager
def _daemon(words: list[str], log: Path, **environment: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _until(ready: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come up")
        time.sleep(0.1)
