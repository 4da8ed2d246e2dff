-- The small web shop that the captured server serves: roles, tables and seed rows.
CREATE ROLE shop LOGIN PASSWORD 'shop_secret';
CREATE ROLE report LOGIN PASSWORD 'report_secret';
CREATE ROLE etl LOGIN PASSWORD 'etl_secret';
CREATE ROLE jobs LOGIN PASSWORD 'jobs_secret';
CREATE ROLE migrate LOGIN CREATEROLE PASSWORD 'migrate_secret';
CREATE ROLE monitor LOGIN PASSWORD 'monitor_secret';
CREATE ROLE analyst LOGIN PASSWORD 'analyst_secret';
GRANT pg_monitor TO monitor;
GRANT ALL ON SCHEMA public TO migrate;
GRANT CREATE ON SCHEMA public TO etl;
GRANT CREATE ON TABLESPACE bulk TO etl, migrate, report;

ALTER ROLE shop SET statement_timeout = '900ms';
ALTER ROLE shop SET lock_timeout = '500ms';
ALTER ROLE jobs SET lock_timeout = '600ms';
ALTER ROLE report SET statement_timeout = '1500ms';
ALTER ROLE analyst SET statement_timeout = '2s';
ALTER ROLE migrate SET lock_timeout = '600ms';

SET ROLE migrate;

CREATE TABLE customers (id serial PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE,
                        password_hash text NOT NULL, visits int NOT NULL DEFAULT 0, created date NOT NULL);
CREATE TABLE addresses (id serial PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, street text, city text);
CREATE TABLE payments (id serial PRIMARY KEY, customer_id int NOT NULL REFERENCES customers, card_token text,
                       amount numeric(10, 2), paid_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE products (id serial PRIMARY KEY, name text NOT NULL, category int NOT NULL, price numeric(8, 2) NOT NULL);
CREATE TABLE stock (product_id int PRIMARY KEY REFERENCES products, quantity int NOT NULL CHECK (quantity >= 0));
CREATE TABLE carts (id serial PRIMARY KEY, customer_id int NOT NULL, product_id int NOT NULL, quantity int NOT NULL);
CREATE TABLE orders (id serial PRIMARY KEY, customer_id int NOT NULL, total numeric(10, 2), status text NOT NULL,
                     placed timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_items (order_id int NOT NULL, product_id int NOT NULL, quantity int NOT NULL, price numeric(8, 2));
CREATE TABLE reviews (id serial PRIMARY KEY, product_id int NOT NULL, customer_id int, stars int, body text);
CREATE TABLE wishlists (id serial PRIMARY KEY, customer_id int NOT NULL, product_id int NOT NULL);
CREATE TABLE coupons (code text PRIMARY KEY, percent int NOT NULL, uses int NOT NULL DEFAULT 0);
CREATE TABLE employees (id serial PRIMARY KEY, name text, salary int, password_hash text);
CREATE TABLE api_keys (id serial PRIMARY KEY, owner text, token text);
CREATE TABLE jobs (id serial PRIMARY KEY, kind text NOT NULL, payload int NOT NULL, done boolean NOT NULL DEFAULT false);
CREATE TABLE counters (name text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE daily_sales (day date PRIMARY KEY, orders int, revenue numeric(12, 2));
CREATE TABLE order_archive (id int PRIMARY KEY, customer_id int, total numeric(10, 2), note text)
    WITH (autovacuum_enabled = false);

INSERT INTO customers (name, email, password_hash, created)
    SELECT 'Customer ' || n, 'user' || n || '@example.com', md5(n::text), date '2024-01-01' + n % 600
    FROM generate_series(1, 2000) n;
INSERT INTO addresses (customer_id, street, city) SELECT n, n || ' Main Street', 'City ' || n % 40 FROM generate_series(1, 2000) n;
INSERT INTO payments (customer_id, card_token, amount) SELECT 1 + n % 2000, md5('card' || n), n % 200 FROM generate_series(1, 4000) n;
INSERT INTO products (name, category, price) SELECT 'Product ' || n, n % 12, 1 + n % 90 FROM generate_series(1, 300) n;
INSERT INTO stock SELECT n, CASE WHEN n % 60 = 0 THEN 0 ELSE 1000000 END FROM generate_series(1, 300) n;
INSERT INTO orders (customer_id, total, status)
    SELECT 1 + n % 2000, n % 300, (ARRAY['new', 'paid', 'sent', 'done'])[1 + n % 4] FROM generate_series(1, 5000) n;
INSERT INTO order_items SELECT 1 + n % 5000, 1 + n % 300, 1 + n % 4, 1 + n % 90 FROM generate_series(1, 12000) n;
INSERT INTO reviews (product_id, customer_id, stars, body)
    SELECT 1 + n % 300, 1 + n % 2000, 1 + n % 5, 'Review text ' || n FROM generate_series(1, 3000) n;
INSERT INTO wishlists (customer_id, product_id) SELECT 1 + n % 2000, 1 + n % 300 FROM generate_series(1, 3000) n;
INSERT INTO coupons SELECT 'SAVE' || n, 5 + n % 20 FROM generate_series(1, 200) n;
INSERT INTO employees (name, salary, password_hash) SELECT 'Employee ' || n, 30000 + n * 100, md5('e' || n) FROM generate_series(1, 80) n;
INSERT INTO api_keys (owner, token) SELECT 'partner' || n, md5('key' || n) FROM generate_series(1, 40) n;
INSERT INTO jobs (kind, payload) SELECT (ARRAY['mail', 'invoice', 'resize'])[1 + n % 3], n FROM generate_series(1, 400) n;
INSERT INTO counters VALUES ('visits', 0), ('orders', 0), ('invoices', 0);
INSERT INTO order_archive SELECT n, 1 + n % 2000, n % 300, repeat('archived ', 8) FROM generate_series(1, 6000) n;
CREATE INDEX ON orders (customer_id);
CREATE INDEX ON order_items (order_id);
CREATE INDEX ON reviews (product_id);
CREATE INDEX ON carts (customer_id);

GRANT SELECT, INSERT, UPDATE, DELETE ON customers, addresses, payments, products, stock, carts, orders, order_items,
    reviews, wishlists, coupons, jobs, counters TO shop, jobs;
GRANT TRUNCATE ON reviews, wishlists TO shop;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO etl;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO report;
GRANT SELECT ON products, orders, order_items, customers, reviews, daily_sales, stock TO analyst;
GRANT SELECT ON order_archive TO shop;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO shop, etl, jobs;
RESET ROLE;
GRANT TEMPORARY ON DATABASE shop TO report, etl, analyst;
ANALYZE;
