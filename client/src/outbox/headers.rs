//! Message headers as text in a table: `[["name", "value"], ...]`, easy to write from SQL and to
//! read when one looks at the table. A name or value that is not UTF-8 is `{"base16": "..."}`.
