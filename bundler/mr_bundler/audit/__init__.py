"""The audit: facts read from files, judged by rules that have names, with allowances that have reasons."""
