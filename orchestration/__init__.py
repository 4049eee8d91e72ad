"""The ground floor (config, storage, ledger, runner, progress, report) and the command line above all stages."""
