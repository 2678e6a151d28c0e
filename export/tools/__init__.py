"""Single steps of a deployment as commands; build actions run these."""
