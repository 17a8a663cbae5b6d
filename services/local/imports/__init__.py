"""Import: loads a folder of CSV or Parquet files into the running suite, in batches and with checkpoints."""
