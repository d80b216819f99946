"""What records tell: read back from the files of `JSONLinesSink` and `SQLiteSink`, pruned, exported and erased."""
