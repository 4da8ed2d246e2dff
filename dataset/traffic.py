"""The normal life of the shop's database: what its clients do, the rare and harmless included."""

import os
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
from clients import (
    ANALYST,
    CHECKOUT,
    ETL,
    HOST,
    MIGRATIONS,
    MONITORING,
    REPORTING,
    WEB,
    WORKER,
    Dialogue,
    Identity,
    Line,
)

SCRIPTS = Path(__file__).parent / "pgbench"


def browse(talk: Dialogue) -> None:
    """Look at the shop: a listing, some products, their reviews, a search."""
    rng = talk.rng
    if rng.random() < 0.6:
        email = f"user{rng.randint(1, 2000)}@example.com"
        talk.say("SELECT id, name, password_hash FROM customers WHERE email = %s", email)
    for _ in range(rng.randint(1, 4)):
        product = rng.randint(1, 300)
        choice = rng.random()
        if choice < 0.4:
            talk.say("SELECT id, name, price FROM products WHERE id = %s", product)
        elif choice < 0.6:
            talk.say(
                "SELECT id, name, price FROM products WHERE category = %s ORDER BY price LIMIT %s OFFSET %s",
                rng.randint(0, 11),
                rng.choice((10, 20, 50)),
                rng.choice((0, 0, 10, 20)),
            )
        elif choice < 0.75:
            talk.say("SELECT stars, body FROM reviews WHERE product_id = %s ORDER BY id DESC LIMIT 5", product)
        elif choice < 0.85:
            term = rng.choice(("Product 1", "Product 22", "O'Neill", "mug -- blue", "50% off", 'the "best"', "select"))
            talk.say("SELECT id, name FROM products WHERE name ILIKE %s LIMIT 20", f"%{term}%")
        elif choice < 0.93:
            talk.say("SELECT quantity FROM stock WHERE product_id = %s", product)
        else:
            talk.say(
                "SELECT p.id, p.name\n  FROM wishlists w\n  JOIN products p ON p.id = w.product_id\n"
                " WHERE w.customer_id = %s",
                rng.randint(1, 2000),
            )


def fill_cart(talk: Dialogue) -> int:
    """Put a few products into a customer's cart; the customer."""
    customer = talk.rng.randint(1, 2000)
    for _ in range(talk.rng.randint(1, 3)):
        talk.say(
            "INSERT INTO carts (customer_id, product_id, quantity) VALUES (%s, %s, %s)",
            customer,
            talk.rng.randint(1, 299) // 60 * 60 + talk.rng.randint(1, 59),
            talk.rng.randint(1, 3),
        )
    return customer


def order(talk: Dialogue, customer: int) -> None:
    """Turn the cart into a paid order, in one transaction."""
    with talk.transaction():
        items = talk.say(
            "SELECT product_id, sum(quantity) FROM carts WHERE customer_id = %s GROUP BY 1 ORDER BY 1", customer
        )
        new = talk.say(
            "INSERT INTO orders (customer_id, total, status) VALUES (%s, %s, 'new') RETURNING id",
            customer,
            talk.rng.randint(5, 400),
        )[0][0]
        for product, quantity in items:
            talk.say("UPDATE stock SET quantity = quantity - %s WHERE product_id = %s", quantity, product)
            talk.say("INSERT INTO order_items VALUES (%s, %s, %s, %s)", new, product, quantity, talk.rng.randint(1, 90))
        talk.say("DELETE FROM carts WHERE customer_id = %s", customer)
        if talk.rng.random() < 0.1:
            talk.say("UPDATE coupons SET uses = uses + 1 WHERE code = %s", f"SAVE{talk.rng.randint(1, 200)}")


def report(talk: Dialogue) -> None:
    """Aggregate, sometimes through a temporary table or a cursor."""
    rng = talk.rng
    choice = rng.random()
    if choice < 0.35:
        talk.say(
            "SELECT status, count(*), sum(total)\n  FROM orders\n WHERE customer_id BETWEEN %s AND %s\n"
            " GROUP BY status",
            low := rng.randint(1, 1500),
            low + 300,
        )
        talk.say("SELECT category, avg(price) FROM products GROUP BY category ORDER BY category")
    if choice < 0.2 or choice > 0.8:
        talk.say(
            "CREATE TEMP TABLE best AS\nSELECT product_id, sum(quantity) AS sold\n"
            "  FROM order_items\n GROUP BY product_id"
        )
        talk.say("SELECT p.name, b.sold FROM best b JOIN products p ON p.id = b.product_id ORDER BY 2 DESC LIMIT 10")
        talk.say("DROP TABLE best")
    if 0.35 <= choice < 0.6:
        with talk.transaction():
            talk.say(
                "DECLARE sales CURSOR FOR SELECT id, total FROM orders ORDER BY placed LIMIT %s", rng.randint(90, 250)
            )
            for _ in range(rng.randint(2, 5)):
                talk.say("FETCH 50 FROM sales")
            talk.say("CLOSE sales")
    if 0.6 <= choice < 0.75:
        talk.say(
            "SELECT id, total, note FROM order_archive WHERE id BETWEEN %s AND %s",
            low := rng.randint(1, 4500),
            low + 40,
        )
    if 0.75 <= choice < 0.8:
        talk.say("SELECT a.order_id, b.product_id FROM order_items a JOIN order_items b USING (order_id) ORDER BY 2, 1")
    if choice >= 0.95:
        talk.say("SELECT count(*) FROM order_items a, order_items b WHERE a.order_id <= %s AND a.price < b.price", 40)


def export(talk: Dialogue) -> None:
    """Copy a day's figures out for another system: a lawful reading of one or a few tables."""
    talk.copy_out("COPY (SELECT id, total, status FROM orders ORDER BY id DESC LIMIT 500) TO STDOUT")
    if talk.rng.random() < 0.5:
        talk.copy_out("COPY products TO STDOUT (FORMAT csv)")
    if talk.rng.random() < 0.3:
        talk.copy_out("COPY reviews (product_id, stars) TO STDOUT (FORMAT csv)")
    if talk.rng.random() < 0.1:
        talk.copy_out("COPY customers (id, created) TO STDOUT (FORMAT csv)")


def load(talk: Dialogue) -> None:
    """Load a staging table, merge it, and clean up as nightly jobs do."""
    rng = talk.rng
    staging = f"staging_{rng.randint(100, 999)}"
    place = rng.choice(("", " TABLESPACE bulk"))
    talk.say(f"CREATE TABLE {staging} (product_id int, stars int, body text){place}")
    rows: list[tuple[object, ...]] = [(rng.randint(1, 300), rng.randint(1, 5), "Imported") for _ in range(200)]
    talk.copy_in(f"COPY {staging} FROM STDIN", rows)
    if rng.random() < 0.5:
        talk.say(f"ANALYZE {staging}")
    talk.say(
        f"INSERT INTO reviews (product_id, stars, body)\nSELECT product_id, stars, body\n  FROM {staging}\n LIMIT 20"
    )
    if rng.random() < 0.3:
        talk.say(f"TRUNCATE {staging}")
    talk.say(f"DROP TABLE {staging}")
    if rng.random() < 0.3:
        talk.say("DELETE FROM carts WHERE id < %s", rng.randint(1, 300))


def close_the_day(talk: Dialogue) -> None:
    """Write the day's sales, replacing what an earlier run wrote."""
    day = f"2026-{talk.rng.randint(1, 12):02}-{talk.rng.randint(1, 28):02}"
    with talk.transaction():
        talk.say("DELETE FROM daily_sales WHERE day = %s", day)
        talk.say("INSERT INTO daily_sales SELECT %s, count(*), sum(total) FROM orders WHERE id < 2000", day)


def work(talk: Dialogue) -> None:
    """Take jobs from the queue, skipping what others hold."""
    for _ in range(talk.rng.randint(1, 3)):
        with talk.transaction():
            taken = talk.say(
                "SELECT id, kind, payload FROM jobs WHERE NOT done ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
            )
            if taken:
                talk.say("UPDATE jobs SET done = true WHERE id = %s", taken[0][0])
    if talk.rng.random() < 0.5:
        talk.say("INSERT INTO jobs (kind, payload) VALUES (%s, %s)", talk.rng.choice(("mail", "invoice", "resize")), 7)


def watch(talk: Dialogue) -> None:
    """Read the server's statistics."""
    queries = [
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'",
        "SELECT datname, numbackends, xact_commit, xact_rollback, deadlocks FROM pg_stat_database",
        "SELECT relname, n_live_tup, n_dead_tup FROM pg_stat_user_tables ORDER BY n_dead_tup DESC LIMIT 5",
        "SELECT checkpoints_timed, checkpoints_req FROM pg_stat_bgwriter",
        "SELECT pg_database_size(current_database())",
        "SELECT pid, wait_event_type, wait_event FROM pg_stat_activity WHERE wait_event_type = 'Lock'",
        "SELECT name, setting FROM pg_settings WHERE name IN ('max_connections', 'work_mem')",
    ]
    for query in talk.rng.sample(queries, talk.rng.randint(2, 5)):
        talk.say(query)


def look_around(talk: Dialogue) -> None:
    """Browse the catalogue, as psql's \\d and an analyst's tool do."""
    queries = [
        "SELECT n.nspname, c.relname, c.relkind\n  FROM pg_catalog.pg_class c\n"
        "  LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace\n WHERE c.relkind IN ('r', 'v')",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'",
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'orders'",
        "SELECT rolname FROM pg_roles WHERE rolname = current_user",
        "SELECT current_database(), current_user, version()",
        "SELECT has_table_privilege('orders', 'SELECT')",
        "SHOW server_version",
    ]
    for query in talk.rng.sample(queries, talk.rng.randint(1, 3)):
        talk.say(query)


def explore(talk: Dialogue) -> None:
    """An analyst at the prompt: questions that are seldom the same twice, now and then mistyped."""
    rng = talk.rng
    if rng.random() < 0.3:
        look_around(talk)
    for _ in range(rng.randint(1, 4)):
        column = rng.choice(("status", "customer_id % 10", "date_trunc('hour', placed)", "total > 100"))
        talk.say(f"SELECT {column}, count(*) FROM orders WHERE id < {rng.randint(50, 5000)} GROUP BY 1 LIMIT 10")
    slips = [
        "SELECT staus, count(*) FROM orders GROUP BY 1",
        "SELEC count(*) FROM orders",
        "SELECT count(*) FROM order",
        "SELECT total / (total - total) FROM orders LIMIT 1",
        "SELECT * FROM orders WHERE status = 'new",
        "SELECT count(*) FROM payments",
        "SELECT id FROM orders WHERE id = 'abc'",
        "SELECT name FROM customers UNION SELECT id FROM orders",
    ]
    if rng.random() < 0.12:
        talk.try_to_say(rng.choice(slips))
        talk.say("SELECT status, count(*) FROM orders GROUP BY 1")
    if rng.random() < 0.05:
        threading.Timer(0.15, talk.connection.cancel).start()
        talk.try_to_say("SELECT count(*) FROM order_items a, orders b WHERE a.price < b.total")
        time.sleep(0.2)


def migrate(talk: Dialogue) -> None:
    """Change the schema: a new table, an index, a column, a grant, and an old table dropped."""
    rng = talk.rng
    table = f"feature_{rng.randint(1000, 9999)}"
    with talk.transaction():
        talk.say(
            f"CREATE TABLE {table} (\n    id serial PRIMARY KEY,\n    customer_id int NOT NULL,\n    value text\n)"
        )
        talk.say(f"CREATE INDEX ON {table} (customer_id)")
        if rng.random() < 0.5:
            talk.say(f"ALTER TABLE {table} ADD COLUMN created timestamptz DEFAULT now()")
        talk.say(f"GRANT SELECT ON {table} TO {rng.choice(('report', 'shop', 'analyst'))}")
    if rng.random() < 0.15:
        role = f"team_{rng.randint(100, 999)}"
        talk.say(f"CREATE ROLE {role} NOLOGIN")
        talk.say(f"GRANT SELECT ON {table} TO {role}")
        talk.say(f"REVOKE ALL ON {table} FROM {role}")
        talk.say(f"DROP ROLE {role}")
    if rng.random() < 0.2:
        talk.say(
            f"CREATE OR REPLACE FUNCTION count_{table}() RETURNS bigint\n    LANGUAGE sql\n"
            f"    AS $$ SELECT count(*) FROM {table} $$"
        )
        talk.say(f"DROP FUNCTION count_{table}()")
    talk.say(f"DROP TABLE {table}")


def visit_shop(line: Line) -> None:
    """A page or two for a visitor who buys nothing."""
    with line.dialogue(WEB) as talk:
        browse(talk)
        if talk.rng.random() < 0.1:
            talk.say("INSERT INTO reviews (product_id, stars) VALUES (%s, %s)", talk.rng.randint(1, 300), 4)


def buy(line: Line) -> None:
    """From the listing to the order."""
    with line.dialogue(CHECKOUT) as talk:
        browse(talk)
        customer = fill_cart(talk)
        if talk.rng.random() < 0.8:
            order(talk, customer)


def buy_sold_out(line: Line) -> None:
    """An order of a product that is not there: the check constraint refuses it, the shop says sorry."""
    with line.dialogue(CHECKOUT) as talk:
        browse(talk)
        talk.try_to_say("UPDATE stock SET quantity = quantity - 1 WHERE product_id = %s", 60 * talk.rng.randint(1, 5))
        browse(talk)


def sign_up(line: Line) -> None:
    """A new customer; sometimes the address is known already, and the unique key says so."""
    with line.dialogue(WEB) as talk:
        number = talk.rng.randint(1, 2000) if talk.rng.random() < 0.15 else talk.rng.randint(10_000, 9_999_999)
        refused = talk.try_to_say(
            "INSERT INTO customers (name, email, password_hash, created) VALUES (%s, %s, md5(%s), current_date)",
            f"Customer {number}",
            f"user{number}@example.com",
            str(number),
        )
        if refused:
            talk.say("SELECT id, name FROM customers WHERE email = %s", f"user{number}@example.com")
        browse(talk)


def flash_sale(line: Line) -> None:
    """Two buyers of one product at the same instant: the second waits a little for the first."""
    product = 60 * line.rng.randint(0, 4) + line.rng.randint(1, 59)

    def second() -> None:
        with line.dialogue(CHECKOUT) as talk:
            browse(talk)
            talk.say("UPDATE stock SET quantity = quantity - 1 WHERE product_id = %s", product)

    with line.dialogue(CHECKOUT) as talk:
        browse(talk)
        rival = threading.Thread(target=quietly(second))
        with talk.transaction():
            talk.say("UPDATE stock SET quantity = quantity - 1 WHERE product_id = %s", product)
            rival.start()
            time.sleep(line.rng.uniform(0.1, 0.3))
        rival.join()


def count_visits(line: Line) -> None:
    """Raise a counter in a strict transaction, and once more where another was quicker."""
    with line.dialogue(WORKER) as talk, line.dialogue(WORKER) as other:
        for counter in talk.rng.sample(("visits", "orders", "invoices"), 2):
            bump = "UPDATE counters SET value = value + 1 WHERE name = %s"
            talk.say("BEGIN ISOLATION LEVEL REPEATABLE READ")
            talk.say("SELECT value FROM counters WHERE name = %s", counter)
            other.say(bump, counter)
            refused = talk.try_to_say(bump, counter)
            talk.say("ROLLBACK" if refused else "COMMIT")
            if refused:
                talk.say(bump, counter)


def run_report(line: Line) -> None:
    """A page of the reporting tool."""
    with line.dialogue(REPORTING) as talk:
        for _ in range(talk.rng.randint(1, 3)):
            report(talk)


def run_export(line: Line) -> None:
    """The lawful export."""
    with line.dialogue(line.rng.choice((ETL, REPORTING))) as talk:
        export(talk)


def run_load(line: Line) -> None:
    """The nightly load."""
    with line.dialogue(ETL) as talk:
        load(talk)
        if talk.rng.random() < 0.5:
            close_the_day(talk)


def dump(line: Line) -> None:
    """A backup of two tables by pg_dump: one long session of many questions to the catalogue."""
    command = ["pg_dump", "-h", HOST, "-p", str(line.port), "-U", ETL.user, "-t", "daily_sales", "-t", "products"]
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD": ETL.password, "PGAPPNAME": ETL.application}
    subprocess.run([*command, ETL.database], check=False, capture_output=True, env=environment)


def vacuum(line: Line) -> None:
    """Housekeeping by the tables' owner."""
    with line.dialogue(MIGRATIONS) as talk:
        for table in talk.rng.sample(("carts", "jobs", "counters", "coupons", "daily_sales"), 2):
            talk.say(talk.rng.choice((f"VACUUM {table}", f"VACUUM (ANALYZE) {table}", f"ANALYZE {table}")))


def run_worker(line: Line) -> None:
    """A worker that takes a few jobs by prepared statements."""
    with line.dialogue(WORKER, prepared=True) as talk:
        work(talk)


def run_monitoring(line: Line) -> None:
    """One round of the monitoring."""
    with line.dialogue(MONITORING) as talk:
        watch(talk)


def run_analyst(line: Line) -> None:
    """An analyst's sitting."""
    with line.dialogue(ANALYST) as talk:
        explore(talk)


def run_migration(line: Line) -> None:
    """A release of the shop."""
    with line.dialogue(MIGRATIONS) as talk:
        migrate(talk)


def reconnect(line: Line) -> None:
    """A client of an unstable network: it connects, asks little, and connects again."""
    identity = line.rng.choice((WEB, REPORTING, WORKER))
    for _ in range(line.rng.randint(2, 3)):
        with line.dialogue(identity) as talk:
            talk.say("SELECT 1")
    with line.dialogue(identity) as talk:
        talk.say("SELECT id, name, price FROM products WHERE id = %s", talk.rng.randint(1, 300))


def mistype_password(line: Line) -> None:
    """A person mistypes the password once and then gets in."""
    line.attempt_login(ANALYST, "analist_secret")
    time.sleep(0.3)
    run_analyst(line)


def check_health(line: Line) -> None:
    """The load balancer opens a connection to see that somebody listens."""
    line.knock()


def quietly(act: Callable[[], None]) -> Callable[[], None]:
    """The same act, for a thread: a client that loses its server has nobody to tell."""

    def wrapped() -> None:
        with suppress(psycopg.Error):
            act()

    return wrapped


def bench(*options: str) -> Callable[[Line], None]:
    """A run of pgbench with these options."""

    def run(line: Line) -> None:
        command = ["pgbench", "-n", "-h", HOST, "-p", str(line.port), "-U", BENCH.user, *options]
        command += [f"--random-seed={line.rng.randint(1, 999_999)}", "--rate=30", BENCH.database]
        environment = {"PATH": os.environ["PATH"], "PGPASSWORD": BENCH.password, "PGAPPNAME": BENCH.application}
        subprocess.run(command, check=False, capture_output=True, env=environment)

    return run


BENCH = Identity("bench", "bench", "pgbench")


@dataclass(frozen=True)
class Behaviour:
    """Something normal clients do, how often, and how many sessions one round of it takes."""

    act: Callable[[Line], None]
    weight: float
    sessions: float = 1


BEHAVIOURS = {
    "visit_shop": Behaviour(visit_shop, 30),
    "buy": Behaviour(buy, 22),
    "buy_sold_out": Behaviour(buy_sold_out, 0.3),
    "sign_up": Behaviour(sign_up, 2.5),
    "flash_sale": Behaviour(flash_sale, 0.3, 2),
    "count_visits": Behaviour(count_visits, 0.25, 2),
    "run_report": Behaviour(run_report, 7),
    "run_export": Behaviour(run_export, 1.5),
    "run_load": Behaviour(run_load, 3),
    "dump": Behaviour(dump, 0.08),
    "vacuum": Behaviour(vacuum, 0.7),
    "run_worker": Behaviour(run_worker, 8),
    "run_monitoring": Behaviour(run_monitoring, 6),
    "run_analyst": Behaviour(run_analyst, 5),
    "run_migration": Behaviour(run_migration, 1.2),
    "reconnect": Behaviour(reconnect, 0.4, 3.5),
    "mistype_password": Behaviour(mistype_password, 0.12, 2),
    "check_health": Behaviour(check_health, 1),
    "bench_tpcb": Behaviour(bench("-b", "tpcb-like", "-C", "-t", "4"), 1, 5),
    "bench_select": Behaviour(bench("-b", "select-only", "-C", "-t", "5"), 0.5, 6),
    "bench_prepared": Behaviour(bench("-b", "simple-update", "-M", "prepared", "-c", "2", "-t", "2"), 0.6, 3),
    "bench_transfer": Behaviour(bench("-f", str(SCRIPTS / "transfer.sql"), "-t", "4"), 1, 2),
    "bench_statement": Behaviour(bench("-f", str(SCRIPTS / "account_statement.sql"), "-C", "-t", "3"), 0.7, 4),
}
