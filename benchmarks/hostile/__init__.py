"""Callers that mean no good, as raw HTTP/2 on sockets, and what they cost the others."""
