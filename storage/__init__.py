"""The trajectory history: Parquet files committed once, DuckDB views over them. Needs pyarrow and duckdb."""
