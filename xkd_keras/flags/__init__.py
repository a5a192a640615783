"""The command line: every flag once, the frozen Config, parsing, exit codes.

config has the flags; peer reads --peer; parsing, text to values; command_line, how a command
starts and ends.
"""
