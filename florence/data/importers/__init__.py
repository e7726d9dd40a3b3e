"""Importers: one module per source, each yielding `florence.data.schema.Pair`s."""
