"""Modules with the names, arguments and results of packages that tag2mask can stand in for."""
