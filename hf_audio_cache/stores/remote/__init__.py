"""What is far: object stores and other filesystems of fsspec, their drivers, options and errors."""
