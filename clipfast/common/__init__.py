"""What every room may use: dtypes, checks of arguments, files written whole, optional packages, downloads."""
