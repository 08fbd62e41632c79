"""Files of rows in, records out: finding the files of each split, and reading every format."""
