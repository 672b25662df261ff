UPDATE posthouse_outbox_state SET schema_version = 2 WHERE schema_version < 2;
