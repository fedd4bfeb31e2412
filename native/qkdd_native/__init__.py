"""C kernels of qkdd behind thin typed wrappers. Imported by qkdd.kernels alone."""
