"""Any table: its schema, reading it in blocks, inferring what its columns hold."""
