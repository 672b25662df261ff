CREATE TABLE IF NOT EXISTS posthouse_outbox_order (slot INT PRIMARY KEY) ENGINE = InnoDB;
CREATE PROCEDURE IF NOT EXISTS posthouse_order_key(message_key LONGBLOB) INSERT INTO posthouse_outbox_order (slot) VALUES (CRC32(message_key) % 65536) ON DUPLICATE KEY UPDATE slot = slot;
CREATE PROCEDURE IF NOT EXISTS posthouse_enqueue_as(message_id BINARY(16), topic VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, body LONGBLOB, message_key LONGBLOB, headers LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, due_at BIGINT) INSERT INTO posthouse_outbox (message_id, topic, body, message_key, headers, due_at) VALUES (message_id, topic, body, message_key, COALESCE(headers, ''), COALESCE(due_at, 0));
UPDATE posthouse_outbox_state SET schema_version = 2 WHERE schema_version < 2;
