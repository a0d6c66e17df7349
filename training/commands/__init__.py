"""The sub-commands of `cprm-train`, one file each: arguments, imports that can wait, one call."""
