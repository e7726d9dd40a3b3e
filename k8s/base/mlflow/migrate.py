"""Brings the schemas of MLflow's database up to date, one server at a time.

MLflow takes no lock of its own: of two servers that start together, one fails half way.
"""

import os
import subprocess
import sys

import psycopg

LOCK = 0x666C6F72  # any number, the same in every server
URI = os.environ["MLFLOW_BACKEND_STORE_URI"]

with psycopg.connect() as connection:  # where to is in PGHOST, PGUSER, PGPASSWORD, ...
    connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
    for command in (
        ("mlflow", "db", "upgrade", URI),  # must be first: it creates the tables of an empty one
        ("mlflow.server.auth", "db", "upgrade", "--url", URI),
    ):
        subprocess.run([sys.executable, "-m", *command], check=True)
