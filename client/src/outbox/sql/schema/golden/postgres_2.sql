CREATE OR REPLACE FUNCTION posthouse_order_key(message_key bytea) RETURNS void LANGUAGE sql AS $body$ SELECT pg_advisory_xact_lock(hashtextextended('posthouse_' || encode($1, 'hex'), 0)) $body$;
UPDATE posthouse_outbox_state SET schema_version = 2 WHERE schema_version < 2;
