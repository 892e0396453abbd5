"""What calls of compiled code stand on: compiling, caching, threads, forks, error messages."""
