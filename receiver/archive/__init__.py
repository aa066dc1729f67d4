"""The archive: it inspects downloaded files, stores them, and writes a manifest beside them."""
