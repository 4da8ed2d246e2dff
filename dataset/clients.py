"""How a client reaches the server: identities, dialogues, and logins that are refused."""

import os
import random
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psycopg
from psycopg import pq


class Identity(NamedTuple):
    """Who connects: shared by normal clients and by faults, so that it gives nothing away."""

    user: str
    database: str
    application: str

    @property
    def password(self) -> str:
        """The password that the schema gave this user."""
        return f"{self.user}_secret"


WEB = Identity("shop", "shop", "web")
CHECKOUT = Identity("shop", "shop", "checkout")
REPORTING = Identity("report", "shop", "reporting")
ETL = Identity("etl", "shop", "etl")
WORKER = Identity("jobs", "shop", "worker")
MIGRATIONS = Identity("migrate", "shop", "migrations")
MONITORING = Identity("monitor", "shop", "monitoring")
ANALYST = Identity("analyst", "shop", "psql")

HOST = "127.0.0.1"


def local_port(descriptor: int) -> int:
    """The client's end of an open TCP connection, which the server logs as `port=`."""
    with socket.socket(fileno=os.dup(descriptor)) as end:
        port: int = end.getsockname()[1]
    return port


@dataclass
class Dialogue:
    """One open session: a connection, its own chance, and the time its user takes to think."""

    connection: psycopg.Connection[tuple[Any, ...]]
    rng: random.Random

    @property
    def pid(self) -> int:
        """The process id of the server's backend."""
        return self.connection.info.backend_pid

    @property
    def port(self) -> int:
        """The client's TCP port."""
        return local_port(self.connection.fileno())

    def say(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Think, run one statement and return its rows."""
        time.sleep(self.rng.expovariate(1 / 0.008))
        cursor = self.connection.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def try_to_say(self, sql: str, *parameters: object) -> str:
        """Run a statement that the server may refuse; its SQLSTATE, or '' where all went well."""
        try:
            self.say(sql, *parameters)
        except psycopg.Error as error:
            if self.connection.closed:
                raise
            return error.sqlstate or "unknown"
        return ""

    def transaction(self) -> Any:
        """A BEGIN ... COMMIT block, rolled back where an error leaves it."""
        return self.connection.transaction()

    def copy_in(self, sql: str, rows: list[tuple[object, ...]]) -> None:
        """Load rows by COPY FROM STDIN."""
        with self.connection.cursor() as cursor, cursor.copy(sql) as copy:
            for row in rows:
                copy.write_row(row)

    def copy_out(self, sql: str) -> None:
        """Read everything that COPY TO STDOUT sends."""
        with self.connection.cursor() as cursor, cursor.copy(sql) as copy:
            for _ in copy:
                pass

    def vanish(self) -> None:
        """Cut the TCP connection without a farewell: the client process is gone."""
        with socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)
        self.connection.close()


@dataclass(frozen=True)
class Line:
    """The line to one server, by which dialogues are opened."""

    port: int
    rng: random.Random
    refused_locks: list[tuple[int, int]] = field(default_factory=list)

    def open(self, identity: Identity, prepared: bool = False) -> Dialogue:
        """Log in; `prepared` clients bind parameters on the server, the others in the text."""
        connection = psycopg.connect(
            self.conninfo(identity, identity.password),
            autocommit=True,
            cursor_factory=psycopg.Cursor if prepared else psycopg.ClientCursor,
        )
        return Dialogue(connection, self.rng)

    @contextmanager
    def dialogue(self, identity: Identity, prepared: bool = False) -> Iterator[Dialogue]:
        """An open session that says goodbye at the end; where it is refused a lock, its port and backend are kept."""
        dialogue = self.open(identity, prepared)
        try:
            yield dialogue
        except psycopg.errors.LockNotAvailable:
            self.refused_locks.append((dialogue.port, dialogue.pid))
            raise
        finally:
            dialogue.connection.close()

    def conninfo(self, identity: Identity, password: str) -> str:
        """libpq's words for the identity."""
        return psycopg.conninfo.make_conninfo(
            host=HOST,
            port=self.port,
            user=identity.user,
            dbname=identity.database,
            application_name=identity.application,
            password=password,
            connect_timeout=10,
        )

    def attempt_login(self, identity: Identity, password: str) -> tuple[int, bool]:
        """Try to log in and leave at once: the client's port, and whether the server let us in.

        A refused login has no backend to ask, so the port is read while the attempt is under way.
        """
        attempt = pq.PGconn.connect_start(self.conninfo(identity, password).encode())
        port = 0
        try:
            while attempt.status != pq.ConnStatus.BAD:
                step = attempt.connect_poll()
                if step in (pq.PollingStatus.OK, pq.PollingStatus.FAILED):
                    break
                port = local_port(attempt.socket) or port
                reading = [attempt.socket] if step == pq.PollingStatus.READING else []
                writing = [attempt.socket] if step == pq.PollingStatus.WRITING else []
                select.select(reading, writing, [], 10)
            return port, attempt.status == pq.ConnStatus.OK
        finally:
            attempt.finish()

    def knock(self, greeting: bytes = b"") -> int:
        """Open a bare TCP connection, perhaps send some bytes, and close it; the client's port."""
        with socket.create_connection((HOST, self.port), timeout=5) as end:
            port: int = end.getsockname()[1]
            if greeting:
                end.sendall(greeting)
                end.recv(256)
            return port
