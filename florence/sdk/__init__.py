"""The Python interface to jobs and models; the command line is a thin layer over it."""

from florence.sdk.client import FlorenceClient
from florence.sdk.job import Job

__all__ = ["FlorenceClient", "Job"]
