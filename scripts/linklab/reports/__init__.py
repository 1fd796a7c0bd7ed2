"""Tables, plots, reports and data cards."""
