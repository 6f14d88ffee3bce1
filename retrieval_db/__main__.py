"""`python -m retrieval_db` is `retrieval-db`."""

from retrieval_db.cli import main

main()
