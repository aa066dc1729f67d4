"""From a result URL to an object in the archive: may we connect there, fetch the bytes, check that they are the picture, store them."""
