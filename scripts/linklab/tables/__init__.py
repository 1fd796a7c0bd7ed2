"""Any table: its file format, rows in blocks, schema, and the kinds of its columns."""
