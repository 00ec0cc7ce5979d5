"""How a plan is answered: the embedded engine, and DuckDB for SQL."""
