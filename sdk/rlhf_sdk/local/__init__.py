"""The local runner: a job's stages as processes of this machine.

`scheduler` decides (pure), `runner` acts, `guard` stands over each stage's processes, `state` is what is remembered.
"""
