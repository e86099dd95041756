"""Remote stores: object stores and other file systems of fsspec, with their drivers, options and errors."""
