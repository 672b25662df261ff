//! Posthouse outbox and inbox for sqlx: PostgreSQL, MariaDB and MySQL, SQLite.
