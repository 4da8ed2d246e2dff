"""The faults that the capture injects among the normal traffic, and the record of who was faulty."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial

import psycopg
from clients import ANALYST, CHECKOUT, ETL, MIGRATIONS, MONITORING, REPORTING, WEB, WORKER, Dialogue, Identity, Line
from session_labels import FaultWindow, FaultyClient
from traffic import browse, explore, fill_cart, look_around, migrate, quietly, report, watch, work


@dataclass
class GroundTruth:
    """What the injectors did, as they knew it while they did it."""

    clients: list[FaultyClient] = field(default_factory=list)
    windows: list[FaultWindow] = field(default_factory=list)


@dataclass
class Scene:
    """Where a fault takes place: the line to the server, and the record under the fault's kind."""

    kind: str
    line: Line
    truth: GroundTruth

    @property
    def rng(self) -> random.Random:
        """The scene's chance."""
        return self.line.rng

    def open(self, identity: Identity) -> Dialogue:
        """Log in as a faulty client; workers prepare their statements here as ever."""
        talk = self.line.open(identity, prepared=identity is WORKER)
        self.truth.clients.append(FaultyClient(self.kind, talk.port, talk.pid, datetime.now(timezone.utc)))
        return talk

    @contextmanager
    def dialogue(self, identity: Identity) -> Iterator[Dialogue]:
        """A faulty session that is closed at the end."""
        talk = self.open(identity)
        try:
            yield talk
        finally:
            talk.connection.close()

    def blame(self, port: int) -> None:
        """Record a faulty client that never got a backend of its own."""
        self.truth.clients.append(FaultyClient(self.kind, port, None, datetime.now(timezone.utc)))


def deadlock(scene: Scene) -> None:
    """Two sessions change the same two rows in opposite order; the server sacrifices one."""
    first, second = scene.rng.sample(range(1, 60), 2)
    meet = threading.Barrier(2)

    def change(one: int, other: int) -> None:
        with scene.dialogue(CHECKOUT) as talk:
            browse(talk)
            with talk.transaction():
                talk.say("UPDATE stock SET quantity = quantity - 1 WHERE product_id = %s", one)
                meet.wait(5)
                talk.say("UPDATE stock SET quantity = quantity - 1 WHERE product_id = %s", other)

    orders = ((first, second), (second, first))
    threads = [threading.Thread(target=quietly(partial(change, *order))) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def lock_timeout(scene: Scene) -> None:
    """A transaction is left open over a row or a table, and another session waits in vain."""
    coupon = f"SAVE{scene.rng.randint(1, 200)}"
    whole_table = scene.rng.random() < 0.4
    holding = scene.rng.choice((WORKER, CHECKOUT))
    waiting = MIGRATIONS if whole_table else CHECKOUT
    with scene.dialogue(holding) as holder, scene.dialogue(waiting) as waiter, holder.transaction():
        holder.say("UPDATE coupons SET uses = uses + 1 WHERE code = %s", coupon)
        if whole_table:
            waiter.try_to_say("ALTER TABLE coupons ADD COLUMN note text")
        else:
            browse(waiter)
            waiter.try_to_say("UPDATE coupons SET uses = uses + 1 WHERE code = %s", coupon)
            browse(waiter)
        time.sleep(0.1)


def statement_timeout(scene: Scene) -> None:
    """A question without bounds is asked, cancelled by the server, and mostly asked again."""
    identity = scene.rng.choice((REPORTING, ANALYST, WEB))
    low = scene.rng.randint(1, 300)
    with scene.dialogue(identity) as talk:
        browse(talk) if identity is WEB else look_around(talk)
        for _ in range(scene.rng.randint(1, 2)):
            talk.try_to_say(
                f"SELECT count(*)\n  FROM order_items a, order_items b\n WHERE a.price < b.price AND a.order_id > {low}"
            )


def backend_killed(scene: Scene) -> None:
    """A backend is killed in the middle of its work; the server restarts itself and all sessions end."""
    present = [(browse, CHECKOUT), (report, REPORTING), (work, WORKER), (watch, MONITORING), (browse, WEB)]
    act, identity = present.pop(scene.rng.randrange(3))
    talk = scene.open(identity)
    act(talk)
    bystanders = [scene.line.open(bystander, prepared=bystander is WORKER) for _, bystander in present]
    for (act, _), bystander in zip(present, bystanders, strict=True):
        act(bystander)
    threading.Timer(0.15, os.kill, (talk.pid, signal.SIGKILL)).start()
    start = datetime.now(timezone.utc)
    with suppress(psycopg.Error):
        talk.say("SELECT count(*) FROM orders a, orders b WHERE a.total < b.total")
    if not talk.connection.broken:
        raise RuntimeError("the backend survived")
    for _ in range(8):
        scene.line.attempt_login(CHECKOUT, CHECKOUT.password)
        time.sleep(0.05)
    for lost in (talk, *bystanders):
        lost.connection.close()
    scene.truth.windows.append(FaultWindow("crash_bystander", start, datetime.now(timezone.utc), crash=True))


def connections_exhausted(scene: Scene) -> None:
    """A client leaks connections until the server has none left; everybody else is refused for a while."""
    identity = scene.rng.choice((WEB, WORKER))
    start = datetime.now(timezone.utc)
    leaked: list[Dialogue] = []
    try:
        while True:
            leaked.append(scene.open(identity))
            leaked[-1].say("BEGIN")
            leaked[-1].say("SELECT id, name, price FROM products WHERE id = %s", scene.rng.randint(1, 300))
    except psycopg.OperationalError:
        for _ in range(3):
            scene.line.attempt_login(identity, identity.password)
            time.sleep(0.1)
    for talk in leaked:
        talk.connection.close()
    scene.truth.windows.append(FaultWindow(scene.kind, start, datetime.now(timezone.utc), crash=False))


def aborted_client(scene: Scene) -> None:
    """A client's process ends in the middle of a transaction, without a word."""
    identity = scene.rng.choice((CHECKOUT, WORKER, ETL, WEB))
    talk = scene.open(identity)
    if identity.user == "shop":
        browse(talk)
    talk.say("BEGIN")
    if identity.user == "shop":
        fill_cart(talk)
    elif identity is ETL:
        talk.say("DELETE FROM daily_sales WHERE day = %s", f"2026-01-{scene.rng.randint(1, 28):02}")
    else:
        talk.say("SELECT id, kind, payload FROM jobs WHERE NOT done ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED")
    talk.vanish()


def password_guessing(scene: Scene) -> None:
    """Wrong passwords are tried one after another; now and then one is right, and the guesser looks around."""
    identities = (ANALYST, WEB, REPORTING, MIGRATIONS, MONITORING)
    aims = [scene.rng.choice(identities)] * 6 if scene.rng.random() < 0.5 else [*identities, ANALYST]
    for identity in aims:
        scene.blame(scene.line.attempt_login(identity, f"guess{scene.rng.randint(0, 9999)}")[0])
        time.sleep(scene.rng.uniform(0.02, 0.2))
    if scene.rng.random() < 0.4:
        with scene.dialogue(aims[-1]) as talk:
            look_around(talk)
            talk.try_to_say("SELECT * FROM customers LIMIT 100")


def privilege_probing(scene: Scene) -> None:
    """Ordinary questions to the catalogue, and between them attempts at what is forbidden."""
    probes = [
        "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles",
        "SELECT table_name, privilege_type FROM information_schema.role_table_grants WHERE grantee = current_user",
        "SELECT relname, has_table_privilege(oid, 'SELECT'), has_table_privilege(oid, 'DELETE')\n  FROM pg_class\n"
        " WHERE relkind = 'r'",
        "SELECT has_database_privilege(datname, 'CREATE'), datname FROM pg_database",
        "SELECT proname FROM pg_proc WHERE prosecdef",
        "SELECT pg_has_role('migrate', 'MEMBER')",
        "SELECT name, setting FROM pg_settings WHERE name IN ('data_directory', 'hba_file')",
    ]
    forbidden = [
        "SELECT usename, passwd FROM pg_shadow",
        "SELECT * FROM employees LIMIT 1",
        "SELECT * FROM api_keys LIMIT 1",
        "SET ROLE postgres",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY products TO PROGRAM 'id'",
        "ALTER ROLE analyst SUPERUSER",
        "SELECT lo_import('PG_VERSION')",
    ]
    questions = scene.rng.sample(probes, scene.rng.randint(2, 5))
    questions += scene.rng.sample(forbidden, scene.rng.choice((0, 1, 1, 2, 3)))
    scene.rng.shuffle(questions)
    with scene.dialogue(scene.rng.choice((ANALYST, WEB, CHECKOUT))) as talk:
        look_around(talk)
        for question in questions:
            talk.try_to_say(question)


def sql_injection(scene: Scene) -> None:
    """A visitor's input breaks out of its quotes: first by trial and error, then with success."""
    number = scene.rng.randint(1, 300)
    search = "SELECT id, name FROM products WHERE name ILIKE '%{}%' LIMIT 20"
    single = "SELECT id, name, price FROM products WHERE id = {}"
    broken = [
        search.format("'"),
        search.format("' UNION SELECT name FROM customers --"),
        search.format("' UNION SELECT NULL, NULL, NULL --"),
        single.format(f"{number}'"),
        single.format(f"{number} ORDER BY 9"),
        single.format(f"{number} AND 1 = CONVERT(int, @@version)"),
        single.format(f"{number} AND CAST((SELECT email FROM customers LIMIT 1) AS int) = 1"),
    ]
    working = [
        search.format("' OR '1' = '1"),
        search.format("' UNION SELECT id, email || password_hash FROM customers --"),
        single.format(f"{number} OR 1 = 1"),
        single.format(f"{number} AND ascii(substr((SELECT password_hash FROM customers LIMIT 1), 1, 1)) > 77"),
        single.format(f"{number} AND (SELECT pg_sleep(0.2)) IS NOT NULL"),
        single.format(f"{number} UNION SELECT NULL, table_name, NULL\n  FROM information_schema.tables"),
    ]
    with scene.dialogue(scene.rng.choice((WEB, CHECKOUT))) as talk:
        browse(talk)
        for attempt in scene.rng.sample(broken, scene.rng.randint(0, 3)):
            talk.try_to_say(attempt)
        for attempt in scene.rng.sample(working, scene.rng.randint(1, 3)):
            talk.try_to_say(attempt)
        browse(talk)


def bulk_reading(scene: Scene) -> None:
    """Table after table is read to the end, by statements that are lawful one by one."""
    identity = scene.rng.choice((WEB, REPORTING, CHECKOUT, REPORTING))
    tables = ["customers", "addresses", "payments", "orders", "order_items", "reviews", "wishlists", "coupons"]
    tables += ["employees", "api_keys"] if identity is REPORTING else []
    way = scene.rng.choice(("select", "copy", "cursor", "pages"))
    with scene.dialogue(identity) as talk:
        for table in scene.rng.sample(tables, scene.rng.randint(3, 6)):
            if way == "select":
                talk.say(f"SELECT * FROM {table}")
            elif way == "copy":
                talk.copy_out(f"COPY {table} TO STDOUT")
            elif way == "cursor":
                with talk.transaction():
                    talk.say(f"DECLARE page CURSOR FOR SELECT * FROM {table}")
                    while talk.say("FETCH 1500 FROM page"):
                        pass
            else:
                for page in range(scene.rng.randint(3, 6)):
                    talk.say(f"SELECT * FROM {table} ORDER BY 1 LIMIT 500 OFFSET {500 * page}")


def disk_full(scene: Scene) -> None:
    """A load is larger than the disk behind its tablespace."""
    staging = f"staging_{scene.rng.randint(100, 999)}"
    with scene.dialogue(scene.rng.choice((ETL, MIGRATIONS))) as talk:
        talk.say(f"CREATE TABLE {staging} (product_id int, stars int, body text) TABLESPACE bulk")
        for _ in range(scene.rng.randint(1, 2)):
            talk.try_to_say(
                f"INSERT INTO {staging}\nSELECT n % 300, n % 5, repeat('Imported', 40)\n"
                "  FROM generate_series(1, 60000) n\n ORDER BY md5(n::text)"
            )
        talk.say(f"DROP TABLE {staging}")


def data_corruption(scene: Scene) -> None:
    """The archive is read where one of its pages was damaged on disk."""
    questions = [
        "SELECT id, total, note FROM order_archive WHERE id BETWEEN 5000 AND 6000",
        "SELECT customer_id, sum(total)\n  FROM order_archive\n GROUP BY customer_id\n ORDER BY 2 DESC\n LIMIT 10",
        "SELECT count(*) FROM order_archive",
    ]
    with scene.dialogue(scene.rng.choice((REPORTING, ETL))) as talk:
        if scene.rng.random() < 0.6:
            talk.say("SELECT category, avg(price) FROM products GROUP BY category ORDER BY category")
        for question in scene.rng.sample(questions, scene.rng.randint(1, 2)):
            talk.try_to_say(question)


def destruction(scene: Scene) -> None:
    """Data are destroyed by someone who may: deleted, emptied or overwritten in bulk."""
    deeds = [
        "DELETE FROM reviews",
        "TRUNCATE reviews",
        "DELETE FROM wishlists",
        "TRUNCATE reviews, wishlists",
        "UPDATE reviews SET body = 'pay to get it back', stars = 0",
        "UPDATE wishlists SET customer_id = 1",
        "DELETE FROM carts",
    ]
    with scene.dialogue(scene.rng.choice((WEB, CHECKOUT))) as talk:
        browse(talk)
        if scene.rng.random() < 0.5:
            look_around(talk)
        for deed in scene.rng.sample(deeds, scene.rng.randint(1, 3)):
            talk.try_to_say(deed)


def backdoor(scene: Scene) -> None:
    """Within an ordinary release somebody gives himself a way back in."""
    name = f"team_{scene.rng.randint(100, 999)}"
    deeds = [
        (f"CREATE ROLE {name} LOGIN PASSWORD 'x{name}'", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"),
        (f"ALTER ROLE analyst VALID UNTIL 'infinity' PASSWORD '{ANALYST.password}'", "GRANT migrate TO analyst"),
        (
            f"CREATE OR REPLACE FUNCTION sum_{name}(q text) RETURNS void\n    LANGUAGE plpgsql SECURITY DEFINER\n"
            "    AS $$ BEGIN EXECUTE q; END $$",
            f"GRANT EXECUTE ON FUNCTION sum_{name}(text) TO PUBLIC",
        ),
        ("GRANT SELECT ON employees, api_keys TO PUBLIC", "GRANT ALL ON customers TO PUBLIC"),
    ]
    with scene.dialogue(MIGRATIONS) as talk:
        migrate(talk)
        for statement in scene.rng.choice(deeds):
            talk.try_to_say(statement)


def starved_backend(scene: Scene) -> None:
    """A backend gets almost no processor time: the same work as ever, only slowly."""
    act, identity = scene.rng.choice(((browse, WEB), (explore, ANALYST), (watch, MONITORING)))
    with scene.dialogue(identity) as talk:
        done = threading.Event()
        starve = threading.Thread(target=_starve, args=(talk.pid, done))
        starve.start()
        try:
            act(talk)
            browse(talk) if identity is WEB else act(talk)
        finally:
            done.set()
            starve.join()


def _starve(pid: int, done: threading.Event) -> None:
    while not done.wait(0.0005):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.08)
        os.kill(pid, signal.SIGCONT)


def port_scan(scene: Scene) -> None:
    """A scanner greets the port in the languages of other services."""
    greetings = [
        b"GET / HTTP/1.0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00",
        b"\x00\x00\x00\x08\x00\x01\x00\x00",
        b"EHLO example.com\r\n",
    ]
    for greeting in scene.rng.sample(greetings, 3):
        scene.blame(scene.line.knock(greeting))
        time.sleep(0.05)


@dataclass(frozen=True)
class Fault:
    """A kind of fault: how it is done, and how often in the train, eval and test part at full size."""

    act: Callable[[Scene], None]
    rounds: tuple[int, int, int]


FAULTS = {
    "deadlock": Fault(deadlock, (4, 1, 2)),
    "lock_timeout": Fault(lock_timeout, (4, 1, 2)),
    "statement_timeout": Fault(statement_timeout, (8, 3, 4)),
    "backend_killed": Fault(backend_killed, (1, 0, 1)),
    "connections_exhausted": Fault(connections_exhausted, (1, 0, 1)),
    "aborted_client": Fault(aborted_client, (8, 3, 5)),
    "password_guessing": Fault(password_guessing, (2, 1, 1)),
    "privilege_probing": Fault(privilege_probing, (9, 3, 6)),
    "sql_injection": Fault(sql_injection, (9, 4, 6)),
    "bulk_reading": Fault(bulk_reading, (9, 4, 6)),
    "disk_full": Fault(disk_full, (0, 0, 4)),
    "data_corruption": Fault(data_corruption, (0, 0, 4)),
    "destruction": Fault(destruction, (0, 0, 4)),
    "backdoor": Fault(backdoor, (0, 0, 4)),
    "starved_backend": Fault(starved_backend, (0, 0, 6)),
    "port_scan": Fault(port_scan, (0, 0, 1)),
}
