"""What every room may use: dtypes, files written whole, optional packages, downloads."""
