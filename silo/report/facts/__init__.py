"""The facts a report is made of, one module per group; `silo.report.model.Report` puts them together."""
