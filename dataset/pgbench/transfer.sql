\set source random(1, 50000)
\set target random(50001, 100000)
\set amount random(1, 500)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :source FOR UPDATE;
UPDATE pgbench_accounts SET abalance = abalance - :amount WHERE aid = :source;
UPDATE pgbench_accounts SET abalance = abalance + :amount WHERE aid = :target;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, :source, :amount, CURRENT_TIMESTAMP);
COMMIT;
