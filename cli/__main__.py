"""`python -m raftcluster.cli`: the commands where no script is installed."""

from raftcluster.cli.main import main

main(prog_name="raftcluster")
