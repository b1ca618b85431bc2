"""The silo's own training: the code that samples, clips, adds noise and counts, whatever the experiment brings.

Only this package imports Opacus. Import its modules directly; :mod:`silo.training.accounting` needs no torch.
"""
