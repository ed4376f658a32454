"""Rows of data: JSON lines, parquet and Hugging Face data sets, in the any-to-any format."""
