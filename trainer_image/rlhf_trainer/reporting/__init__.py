"""The report: what a job's folders say, as JSON and as one HTML file. No torch here."""
