"""The demo: four real hospitals and a fictional one, from an empty directory to a report.

Nothing here is needed by a deployment: it plays the people (admins who create homes, a consortium that signs, a
researcher who submits) and then starts the same two Flower apps that a deployment starts.
"""

from silo.demo.run import Options, prepare_demo, resume_demo, run_demo

__all__ = ["Options", "prepare_demo", "resume_demo", "run_demo"]
