"""`quanyu import`: a folder of CSV or Parquet files into the running suite, in batches, restartable where it stopped."""
