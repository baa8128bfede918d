"""`python -m crossalign` is `crossalign`."""

from crossalign.cli import main

main(prog_name="crossalign")
