"""Stand-ins for the other providers: each speaks its provider's protocol and signs as it does.

They share tasks, files, fault script and callbacks with the stand-in for GRSAI, and are served
under one port: ``/fal``, ``/replicate``, ``/bfl``, ``/kie``.
"""
