"""The words of `mstar-ray`: options and help of each command, one module a command."""
