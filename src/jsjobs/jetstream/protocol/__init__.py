"""What is on the wire: names of subjects and streams, ids, headers. Pure."""
