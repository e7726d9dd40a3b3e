"""Image-text pairs: writing them as MDS shards, and streaming them back as batches."""
