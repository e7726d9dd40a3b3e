"""Floor of the project: errors, logging, storage and seeding. Imports nothing above itself."""
