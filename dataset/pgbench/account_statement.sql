\set aid random(1, 100000)
SELECT a.abalance,
       b.bbalance
  FROM pgbench_accounts a
  JOIN pgbench_branches b USING (bid)
 WHERE a.aid = :aid;
