"""Rules for cells, columns and rows of a table, and the report on them."""
