"""The built-in data set of 5 GHz links: schema, writer, data card, strata."""
