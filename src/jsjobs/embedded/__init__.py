"""Real servers on this machine, from PyPI packages: nobody installs one by hand."""
