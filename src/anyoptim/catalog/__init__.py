"""One module per backing package. Each offers ``SPECS``; the registry finds the modules by itself.

Nothing here imports torch or a backing package: a spec names its class as text.
"""
